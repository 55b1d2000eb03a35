// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What a packet says about the life of its connection, and whether to believe it. Anybody who knows the
//! addresses and ports of an idle connection can send a reset or a FIN in the client's name. So each is compared
//! with what is known of the stream, and is taken back by what contradicts it. For how long a flow is kept then
//! is decided in `conntrack.rs`.
//!
//! | packet | believed | taken back by |
//! |---|---|---|
//! | FIN | near the place of its side's stream | bytes beyond it, of the same side |
//! | RST | near that place | any later packet of the same side, or of the other one |
//! | either, anywhere else | no ([`DOUBTED`]) | any later packet of the same side that is near |
//!
//! A doubted packet is forwarded all the same: its receiver knows the stream exactly.

use crate::conntrack::{DATA, DOUBTED, FIN, RESET_BY_OTHER, RST, SYN, closes};

/// How far a sequence number may be behind the known place: more than a usual window of bytes that may have to
/// be sent again.
pub const NEAR_BEHIND: u32 = 1 << 20;
/// How far a sequence number may be ahead of the known place. The place is noted once in a tick (1.07 s), so
/// this is what a side sends in that time at 500 Mbit/s. With it, 1 of 63 random numbers is near. After more
/// bytes in one tick a genuine reset is doubted, and its flow is kept for longer than it would need.
pub const NEAR_AHEAD: u32 = 1 << 26;

/// Where a packet is in the stream of its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the side can hardly be.
    Elsewhere,
    /// Near the known place, but not beyond it.
    Near,
    /// Near the known place, and beyond it.
    Beyond,
}

/// Where a packet with the sequence number `seq` is, if its side is known to be at `known`. 0: nothing is
/// known.
#[inline(always)]
pub const fn place(known: u32, seq: u32) -> Place {
    let ahead = seq.wrapping_sub(known);
    if known != 0 && ahead.wrapping_add(NEAR_BEHIND) >= NEAR_BEHIND + NEAR_AHEAD {
        Place::Elsewhere
    } else if known == 0 || ahead == 0 || ahead > NEAR_AHEAD {
        Place::Near
    } else {
        Place::Beyond
    }
}

/// Whether a packet with these TCP flags (0 for UDP) changes nothing in `seen`, wherever it is. So it is for
/// nearly all packets.
#[inline(always)]
pub const fn is_steady(seen: u8, tcp_flags: u8) -> bool {
    seen & (FIN | RST | DOUBTED | RESET_BY_OTHER | DATA) == DATA && tcp_flags & (SYN | FIN | RST) == 0
}

/// What was seen in a direction after one more packet with these TCP flags (0 for UDP). A SYN after a FIN or
/// RST starts again from nothing: the client uses its port for a new connection (RFC 9293, 3.10.7.4,
/// TIME-WAIT).
#[inline(always)]
pub const fn step(seen: u8, tcp_flags: u8, place: Place) -> u8 {
    let flags = tcp_flags & (SYN | FIN | RST);
    let is_near = !matches!(place, Place::Elsewhere);
    if flags & SYN != 0 && closes(seen) {
        return flags;
    }
    if flags & (FIN | RST) != 0 {
        return end(seen, flags, is_near);
    }
    if flags != 0 {
        return seen | SYN;
    }
    let mut taken_back = 0;
    if is_near {
        taken_back |= RST | RESET_BY_OTHER;
    }
    if is_near && seen & DOUBTED != 0 || matches!(place, Place::Beyond) {
        taken_back |= FIN | DOUBTED;
    }
    seen & !taken_back | DATA
}

/// The same for a packet with a FIN or RST.
#[inline(always)]
const fn end(seen: u8, flags: u8, is_near: bool) -> u8 {
    if is_near {
        let doubted = if seen & DOUBTED != 0 { FIN | RST | DOUBTED } else { 0 };
        seen & !doubted | flags
    } else if closes(seen) || seen & DATA == 0 {
        // It adds nothing to an end that is believed. While a connection is opened nothing rests on it.
        seen
    } else {
        seen | flags | DOUBTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{
        ACK, CLOSED_SECS, ESTABLISHED_SECS, HALF_CLOSED_SECS, HALF_OPEN_SECS, lifetime_secs, may_have_ended,
    };
    use crate::frontend::TCP;

    /// Who sends a packet.
    #[derive(Clone, Copy)]
    enum Sender {
        Client,
        Backend,
    }
    use Place::{Beyond, Elsewhere, Near};
    use Sender::{Backend as B, Client as C};

    /// What was seen of client and backend after these packets.
    fn after(packets: &[(Sender, u8, Place)]) -> (u8, u8) {
        let mut seen = [0, 0];
        for (from, flags, place) in packets {
            let (own, other) = (*from as usize, 1 - *from as usize);
            seen[own] = step(seen[own], *flags, *place);
            if flags & RST != 0 && *place != Elsewhere && seen[other] & DATA != 0 {
                seen[other] |= RESET_BY_OTHER;
            }
        }
        (seen[0], seen[1])
    }

    /// The lifetime of an open connection after these packets.
    fn life(packets: &[(Sender, u8, Place)]) -> u32 {
        let open = [(C, SYN, Near), (B, SYN | ACK, Near), (C, ACK, Beyond), (B, ACK, Near)];
        let (forward, reply) = after(&[&open, packets].concat());
        lifetime_secs(TCP, forward, reply)
    }

    const END: u8 = FIN | ACK;

    #[test]
    fn a_lifetime_follows_the_life_cycle() {
        let of = |packets: &[_]| {
            let (forward, reply) = after(packets);
            lifetime_secs(TCP, forward, reply)
        };
        assert_eq!(of(&[(C, SYN, Near)]), HALF_OPEN_SECS);
        assert_eq!(of(&[(C, SYN, Near), (B, SYN | ACK, Near)]), HALF_OPEN_SECS);
        assert_eq!(of(&[(C, SYN, Near), (B, RST | ACK, Near)]), CLOSED_SECS, "refused");
        // A flow whose SYN was not seen here; mode DSR, which sees only the client.
        assert_eq!(of(&[(C, ACK, Near)]), ESTABLISHED_SECS);
        assert_eq!(of(&[(C, ACK, Near), (C, END, Near)]), HALF_CLOSED_SECS);
        assert_eq!(of(&[(C, ACK, Near), (C, RST, Near)]), CLOSED_SECS);
        assert_eq!(of(&[(C, ACK, Near), (C, RST, Elsewhere)]), ESTABLISHED_SECS);
        assert_eq!(life(&[]), ESTABLISHED_SECS);
    }

    #[test]
    fn every_genuine_end_is_believed() {
        let (c_fin, b_fin, c_ack, b_ack) = ((C, END, Near), (B, END, Near), (C, ACK, Near), (B, ACK, Near));
        assert_eq!(life(&[c_fin]), HALF_CLOSED_SECS);
        assert_eq!(life(&[c_fin, b_ack, (B, ACK, Near)]), HALF_CLOSED_SECS, "the backend goes on");
        assert_eq!(life(&[c_fin, b_ack, b_fin, c_ack]), CLOSED_SECS);
        assert_eq!(life(&[b_fin, c_ack, c_fin, b_ack]), CLOSED_SECS);
        assert_eq!(life(&[c_fin, b_fin, c_ack, b_ack]), CLOSED_SECS, "both at once");
        assert_eq!(life(&[c_fin, b_fin, c_ack, c_fin, b_ack, b_fin, c_ack]), CLOSED_SECS, "sent again");
        assert_eq!(life(&[c_fin, b_ack, (C, ACK, Near), b_fin, c_ack]), CLOSED_SECS, "bytes sent again");
        assert_eq!(life(&[(C, RST, Near)]), CLOSED_SECS);
        assert_eq!(life(&[(B, RST, Near)]), CLOSED_SECS);
        assert_eq!(life(&[c_fin, b_ack, (C, RST, Near)]), CLOSED_SECS);
        // Bytes on their way when the client resets: it resets again.
        assert_eq!(life(&[(C, RST, Near), b_ack, b_ack, (C, RST, Near)]), CLOSED_SECS);
        // So much data in a tick that the close of one side is doubted.
        assert_eq!(life(&[(C, END, Elsewhere), b_fin, (C, ACK, Elsewhere)]), CLOSED_SECS);
        // The same ports are used again.
        assert_eq!(life(&[c_fin, b_fin, (C, SYN, Elsewhere), (B, SYN | ACK, Near)]), HALF_OPEN_SECS);
        assert_eq!(life(&[c_fin, b_fin, (C, SYN, Elsewhere), (B, SYN | ACK, Near), c_ack]), ESTABLISHED_SECS);
    }

    #[test]
    fn what_is_contradicted_is_not_believed() {
        for flags in [END, RST, RST | ACK] {
            for from in [C, B] {
                assert_eq!(life(&[(from, flags, Elsewhere)]), ESTABLISHED_SECS, "{flags:#x}");
                assert_eq!(life(&[(from, flags, Elsewhere), (C, SYN, Elsewhere)]), ESTABLISHED_SECS);
            }
            assert_eq!(
                life(&[(C, flags, Near), (C, ACK, Beyond)]),
                ESTABLISHED_SECS,
                "{flags:#x}: it goes on"
            );
        }
        // The backend answers a wrong reset (RFC 5961, 3.2), the client too.
        assert_eq!(life(&[(C, RST, Near), (B, ACK, Near)]), ESTABLISHED_SECS);
        assert_eq!(life(&[(B, RST, Near), (C, ACK, Near)]), ESTABLISHED_SECS);
        // One forged close does not end a connection that the other side has closed half.
        assert_eq!(life(&[(B, END, Near), (C, RST, Elsewhere)]), HALF_CLOSED_SECS);
        // Neither does a forged packet that denies the end.
        assert_eq!(life(&[(C, RST, Near), (C, ACK, Elsewhere)]), CLOSED_SECS);
        assert_eq!(life(&[(C, RST, Near), (B, ACK, Elsewhere)]), CLOSED_SECS);
        assert_eq!(life(&[(C, END, Elsewhere), (B, END, Elsewhere)]), ESTABLISHED_SECS);
    }

    #[test]
    fn a_doubted_end_is_remembered_until_the_stream_goes_on() {
        let ends = |packets: &[_]| {
            let (forward, reply) = after(packets);
            may_have_ended(forward, reply)
        };
        assert!(ends(&[(C, ACK, Near), (C, RST, Elsewhere)]));
        assert!(ends(&[(C, ACK, Near), (C, RST, Elsewhere), (C, ACK, Elsewhere)]));
        assert!(!ends(&[(C, ACK, Near), (C, RST, Elsewhere), (C, ACK, Near)]));
        assert!(!ends(&[(C, SYN, Near), (C, RST, Elsewhere)]), "an opening");
    }

    #[test]
    fn places_wrap_around_with_the_numbers() {
        for known in [1, 77, u32::MAX, 1 << 31, NEAR_AHEAD, NEAR_BEHIND] {
            let at = |ahead: u32| place(known, known.wrapping_add(ahead));
            assert_eq!([at(0), at(1), at(NEAR_AHEAD - 1)], [Near, Beyond, Beyond], "{known}");
            assert_eq!([at(NEAR_BEHIND.wrapping_neg()), at(u32::MAX)], [Near, Near], "{known}");
            let far = [NEAR_AHEAD, 1 << 31, (NEAR_BEHIND + 1).wrapping_neg()];
            assert_eq!(far.map(at), [Elsewhere; 3], "{known}");
        }
        assert_eq!(place(0, 1 << 31), Near, "nothing is known");
    }

    #[test]
    fn steady_packets_change_nothing() {
        for seen in 0..=u8::MAX {
            for flags in (0..=u8::MAX).filter(|flags| is_steady(seen, *flags)) {
                for place in [Near, Beyond, Elsewhere] {
                    assert_eq!(step(seen, flags, place), seen);
                }
            }
        }
        assert!(is_steady(DATA | SYN, ACK) && is_steady(DATA, 0));
    }
}
