// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Mode NAT: when the flow that has a source port may lose it to a flow that finds no free one, and how long a
//! pending flow is kept at all. What is done then is in the programs and in the agent's sweep.
//!
//! ```text
//!   taken as soon as no port is free              taken as the last resort        never taken
//!   TCP: an opening, 1 s after the client's       TCP: ended, or ended by a       TCP: any other
//!        last packet                                   doubted packet, after 30 s
//!   UDP: a question, 1 s after its answer         UDP: a question without an      UDP: any other
//!                                                      answer, after 5 s;
//!                                                      a conversation, after 2 min
//! ```
//!
//! An opening is a pending flow that the backend has not answered, whatever its first packet was, or whose
//! client has sent nothing but SYNs. A question is a pending UDP flow: a flow is no longer pending when its client
//! sends another packet after an answer. Then it is a conversation.

use crate::conntrack::{
    CLOSED_SECS, HALF_OPEN_SECS, SYN, UDP_SECS, UDP_UNANSWERED_SECS, has_ended, is_expired, may_have_ended,
};
use crate::frontend::TCP;
use crate::time::Tick;

/// After this many ticks without a packet, at least 1.07 s, an opening or an answered question may lose its source
/// port. Otherwise a flood of SYNs or of stray ACKs from random addresses would hold all ports for
/// [`HALF_OPEN_SECS`]. A second is enough for copies of an answer.
pub const OPENING_TICKS: Tick = 2;
/// After this many ticks, at least 5.3 s, a question may lose its source port before it is answered. Resolvers ask
/// again after 5 s (resolv.conf(5)), so nobody waits for an answer that comes later and reaches another client.
pub const QUESTION_TICKS: Tick = 6;
/// After this many ticks of silence, at least 2 min (RFC 4787, REQ-5), a UDP conversation may lose its source port.
pub const CONVERSATION_TICKS: Tick = 113;

/// Lifetime of an answered question to a well-known port. RFC 4787, REQ-5 a, allows less than 2 min there.
const WELL_KNOWN_QUESTION_SECS: u32 = 30;
/// The first port that is not well known (RFC 6335, 6).
const FIRST_USER_PORT: u16 = 1024;

/// What is known of the flow that has a source port.
#[derive(Clone, Copy, Debug)]
pub struct PortHolder {
    /// [`TCP`] or [`UDP`](crate::frontend::UDP).
    pub protocol: u8,
    /// Both of its entries are pending.
    pub is_pending: bool,
    /// What was seen of the client, see [`step`](crate::conntrack::step).
    pub forward: u8,
    /// What was seen of the backend.
    pub reply: u8,
    /// When the client's last packet came.
    pub forward_used: Tick,
    /// When the backend's last packet came, or when the flow began.
    pub reply_used: Tick,
}

impl PortHolder {
    /// Whether the flow may lose its port as soon as another flow finds no free one.
    #[inline(always)]
    pub const fn gives_way(&self, now: Tick) -> bool {
        if self.protocol == TCP {
            // A backend repeats its SYN-ACK, so only the client's packets count.
            let is_opening = self.reply == 0 || self.forward == SYN;
            self.is_pending && is_opening && now.saturating_sub(self.forward_used) >= OPENING_TICKS
        } else {
            self.is_pending && self.reply != 0 && self.is_silent_for(OPENING_TICKS, now)
        }
    }

    /// Whether the flow may lose its port if no other does.
    #[inline(always)]
    pub const fn gives_way_at_last(&self, now: Tick) -> bool {
        if self.protocol == TCP {
            let last = if self.reply_used > self.forward_used { self.reply_used } else { self.forward_used };
            return has_ended(self.forward, self.reply)
                || may_have_ended(self.forward, self.reply) && is_expired(last, now, CLOSED_SECS);
        }
        let is_unanswered = self.is_pending && self.reply == 0;
        self.is_silent_for(if is_unanswered { QUESTION_TICKS } else { CONVERSATION_TICKS }, now)
    }

    #[inline(always)]
    const fn is_silent_for(&self, ticks: Tick, now: Tick) -> bool {
        now.saturating_sub(self.forward_used) >= ticks && now.saturating_sub(self.reply_used) >= ticks
    }
}

/// The longest that an idle pending flow in mode NAT is kept, even if its packets look like those of an older
/// connection: such a connection is answered. `reply` is what was seen of the backend.
pub const fn pending_secs(protocol: u8, vip_port: u16, reply: u8) -> u32 {
    if protocol == TCP {
        return if reply == 0 { HALF_OPEN_SECS } else { u32::MAX };
    }
    if reply == 0 {
        UDP_UNANSWERED_SECS
    } else if vip_port < FIRST_USER_PORT {
        WELL_KNOWN_QUESTION_SECS
    } else {
        UDP_SECS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{ACK, DATA, DOUBTED, FIN, RESET_BY_OTHER, RST};
    use crate::frontend::UDP;
    use crate::life_cycle::{Place, step};

    const BEGAN: Tick = 100;

    /// A pending flow of which these TCP flags were seen in each direction, all at once.
    fn pending(protocol: u8, forward: &[u8], reply: &[u8]) -> PortHolder {
        let seen = |flags: &[u8]| flags.iter().fold(0, |seen, flags| step(seen, *flags, Place::Near));
        PortHolder {
            protocol,
            is_pending: true,
            forward: seen(forward),
            reply: seen(reply),
            forward_used: BEGAN,
            reply_used: BEGAN,
        }
    }

    /// After how many ticks the flow may lose its port: as soon as no port is free, and as the last resort.
    fn ticks(holder: PortHolder) -> [Option<Tick>; 2] {
        let first = |gives_way: &dyn Fn(Tick) -> bool| (0..20_000).find(|ticks| gives_way(BEGAN + ticks));
        [first(&|now| holder.gives_way(now)), first(&|now| holder.gives_way_at_last(now))]
    }

    #[test]
    fn a_connection_without_an_answer_is_an_opening_whatever_began_it() {
        for forward in [&[SYN, SYN][..], &[ACK], &[FIN | ACK], &[ACK, FIN | ACK]] {
            assert_eq!(ticks(pending(TCP, forward, &[])), [Some(OPENING_TICKS), None], "{forward:?}");
            assert_eq!(pending_secs(TCP, 80, pending(TCP, forward, &[]).reply), HALF_OPEN_SECS);
        }
        // The client has not continued.
        assert_eq!(ticks(pending(TCP, &[SYN], &[SYN | ACK])), [Some(OPENING_TICKS), None]);
    }

    #[test]
    fn an_answered_connection_keeps_its_port_until_it_has_ended() {
        assert_eq!(ticks(pending(TCP, &[ACK], &[ACK])), [None; 2]);
        assert_eq!(ticks(pending(TCP, &[SYN, ACK], &[SYN | ACK])), [None; 2]);
        let reset = PortHolder { forward: DATA | RESET_BY_OTHER, ..pending(TCP, &[ACK], &[RST]) };
        assert_eq!(ticks(reset), [None, Some(0)]);
        let placed = PortHolder { is_pending: false, ..pending(TCP, &[SYN, ACK], &[SYN | ACK]) };
        assert_eq!(ticks(placed), [None; 2]);
        assert_eq!(pending_secs(TCP, 80, DATA), u32::MAX);
    }

    #[test]
    fn a_connection_that_may_have_ended_keeps_its_port_for_a_while() {
        let seen = PortHolder {
            forward: SYN | DATA | RST | DOUBTED,
            ..pending(TCP, &[SYN, ACK], &[SYN | ACK, ACK])
        };
        let [at_once, last] = ticks(seen);
        assert_eq!(at_once, None);
        let secs = crate::time::elapsed_secs(BEGAN, BEGAN + last.unwrap());
        assert!((CLOSED_SECS..CLOSED_SECS + 3).contains(&secs), "{secs}");
    }

    #[test]
    fn a_question_gives_way_soon_after_its_answer_but_not_soon_before() {
        let (asked, answered) = (pending(UDP, &[0], &[]), pending(UDP, &[0], &[0]));
        assert_eq!(ticks(asked), [None, Some(QUESTION_TICKS)]);
        assert_eq!(ticks(answered)[0], Some(OPENING_TICKS));
        let late = PortHolder { reply_used: BEGAN + 3, ..answered };
        assert_eq!(ticks(late)[0], Some(3 + OPENING_TICKS));
        let conversation = PortHolder { is_pending: false, ..answered };
        assert_eq!(ticks(conversation), [None, Some(CONVERSATION_TICKS)]);
    }

    #[test]
    fn only_questions_to_well_known_ports_are_forgotten_early() {
        assert_eq!(pending_secs(UDP, 53, 0), UDP_UNANSWERED_SECS);
        assert_eq!(pending_secs(UDP, 53, DATA), WELL_KNOWN_QUESTION_SECS);
        assert_eq!(pending_secs(UDP, 1024, DATA), UDP_SECS);
    }

    #[test]
    fn a_conversation_keeps_its_port_for_two_minutes() {
        // One tick may be nearly over when the first packet comes.
        assert!(crate::time::elapsed_secs(0, CONVERSATION_TICKS - 1) >= 120);
    }
}
