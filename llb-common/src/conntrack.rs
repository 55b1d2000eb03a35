// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Flow entries: what is remembered of a connection, in the direction of the
//! client's packets (forward) and of the backend's (reply), and how long.
//! When an entry is made is in the programs; removing old ones is the agent's.
//!
//! ```text
//!   first packet        reply seen, and the client's next packet      idle for `lifetime_secs`
//!  ------------> PENDING_FLOWS -----------------------------------> FLOWS ------------> removed
//!                PENDING_REPLIES            (DSR: the client's       REPLIES
//!                LRU: a flood pushes         second packet)          never evicted by the kernel
//!                its own kind out
//! ```
//!
//! Mode NAT has an entry in both directions, each with what the packets of its
//! direction need, so that a packet looks up one of them; DSR has the forward
//! one. Each takes a line of 64 bytes of its [`flow_table`](crate::flow_table), and
//! its part of what is free there: 228 for a connection.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac, WirePort};
use crate::backend::BackendId;
use crate::frontend::TCP;
use crate::time::{Tick, elapsed_secs};

/// What the client's packets are found by: 24 bytes. It is made from the
/// packet alone, so that a known flow costs one look-up; [`forward_key`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ForwardKey {
    /// The client.
    pub client: Address,
    /// Stands for VIP and protocol. Two VIPs may share one: whoever finds an
    /// entry compares with its backend's `vip`.
    pub vip: u32,
    /// Port of the client.
    pub client_port: WirePort,
    /// Port of the frontend.
    pub vip_port: WirePort,
}

const _: () = assert!(size_of::<ForwardKey>() == 24);

/// The key of the packets from a client to a frontend.
///
/// Of the same VIP, TCP and UDP never share a key. Two VIPs of IPv4 do only
/// if one is the other's complement, two of IPv6 in 1 of 2^32 cases; then, only
/// one of two flows with the same ports of the same client is remembered.
#[inline(always)]
pub const fn forward_key(
    client: Address,
    client_port: WirePort,
    vip: Address,
    vip_port: WirePort,
    protocol: u8,
) -> ForwardKey {
    let [high, low] = vip.words();
    // Of IPv4, all but the first term is constant.
    let mixed = high.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let name = (low >> 32) as u32 ^ (mixed >> 32) as u32 ^ (low as u32).wrapping_mul(0x85eb_ca6b);
    let vip = if protocol == TCP { name } else { !name };
    ForwardKey { client, vip, client_port, vip_port }
}

/// What is remembered for the client's packets: 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct ForwardEntry {
    /// Where they go.
    pub backend: BackendId,
    /// When the last one came.
    pub used: Tick,
    /// Source port that the backend sees; 0 in mode DSR.
    pub snat_port: WirePort,
    /// What was seen in this direction: [`step`].
    pub seen: u8,
    /// Zero.
    pub padding: u8,
    /// By which way they came, see [`next_hop`]: when it changes, so must the reply entry.
    pub next_hop: u32,
}

const _: () = assert!(size_of::<ForwardEntry>() == 16);

/// What a backend's packets are found by: 24 bytes. Their destination is not
/// in it: it is compared with the backend's `snat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ReplyKey {
    /// Address of the backend.
    pub backend: Address,
    /// Port of the backend.
    pub backend_port: WirePort,
    /// Destination port: [`ForwardEntry::snat_port`].
    pub snat_port: WirePort,
    /// [`TCP`] or [`UDP`](crate::frontend::UDP).
    pub protocol: u8,
    /// Zeros.
    pub padding: [u8; 3],
}

const _: () = assert!(size_of::<ReplyKey>() == 24);

impl ReplyKey {
    /// The key of the packets from a backend to a source port. It is made of
    /// words, since eBPF calls a function for padding of three bytes.
    #[inline(always)]
    pub fn new(backend: Address, backend_port: WirePort, snat_port: WirePort, protocol: u8) -> Self {
        let rest = [backend_port.wire(), snat_port.wire(), u16::from_ne_bytes([protocol, 0]), 0];
        let [high, low] = backend.words();
        bytemuck::cast([high, low, bytemuck::cast(rest)])
    }
}

/// What is remembered for a backend's packets: 40 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ReplyEntry {
    /// Where they go.
    pub client: Address,
    /// Who sends them; its entry has the VIP.
    pub backend: BackendId,
    /// When the last one came.
    pub used: Tick,
    /// The link that the client is reached by: the one its packets came by.
    pub ifindex: u32,
    /// Of the client, or of the router before it: who its packets came from.
    pub mac: Mac,
    /// Port of the client.
    pub client_port: WirePort,
    /// What was seen in this direction: [`step`]. 0: no reply yet.
    pub seen: u8,
    /// Zeros.
    pub padding: [u8; 3],
}

const _: () = assert!(size_of::<ReplyEntry>() == 40);

/// TCP flags of RFC 9293, 3.1, as the byte at offset 13 of the header has them.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 1 << 1;
/// See [`FIN`].
pub const RST: u8 = 1 << 2;
/// See [`FIN`].
pub const ACK: u8 = 1 << 4;

/// In `seen`: something that is neither [`SYN`] nor [`FIN`] nor [`RST`]. Those
/// are in `seen` as themselves.
pub const DATA: u8 = 1 << 4;

/// Whether a TCP packet begins a connection. UDP has no such packet.
#[inline(always)]
pub const fn opens(tcp_flags: u8) -> bool {
    tcp_flags & (SYN | ACK | RST | FIN) == SYN
}

/// What was seen in a direction after a packet with these flags (0 for UDP).
/// After a FIN or RST, a SYN begins anew (RFC 9293, 3.10.7.4, TIME-WAIT; the
/// port is used again).
#[inline(always)]
pub const fn step(seen: u8, tcp_flags: u8) -> u8 {
    let flags = tcp_flags & (SYN | FIN | RST);
    if flags & SYN != 0 && seen & (FIN | RST) != 0 {
        return flags;
    }
    seen | if flags == 0 { DATA } else { flags }
}

/// A handshake without its third packet; twice what Linux' own SYNs are
/// repeated for before they wait 32 s.
pub const HALF_OPEN_SECS: u32 = 60;
/// A connection that may still be used: at least 2 h 4 min (RFC 5382, REQ-5).
pub const ESTABLISHED_SECS: u32 = 7440;
/// One side has said that it ends, the other may still send (RFC 5382, REQ-5
/// asks for 4 min).
pub const HALF_CLOSED_SECS: u32 = 300;
/// Both sides have ended, or one has reset: time for what is still on its way
/// and for the repeated last packet.
pub const CLOSED_SECS: u32 = 30;
/// UDP both ways: at least 2 min (RFC 4787, REQ-5).
pub const UDP_SECS: u32 = 180;
/// UDP without an answer yet.
pub const UDP_UNANSWERED_SECS: u32 = 30;

/// Whether a connection has ended: both sides have said so, or one has reset.
#[inline(always)]
pub const fn has_ended(forward: u8, reply: u8) -> bool {
    (forward | reply) & RST | forward & reply & FIN != 0
}

/// How long an idle flow is kept, by what was `seen` in its directions
/// (`reply`: 0 where nothing was, and in mode DSR, where nothing can be).
pub const fn lifetime_secs(protocol: u8, forward: u8, reply: u8) -> u32 {
    if protocol != TCP {
        return if reply == 0 { UDP_UNANSWERED_SECS } else { UDP_SECS };
    }
    if has_ended(forward, reply) {
        CLOSED_SECS
    } else if (forward | reply) & FIN != 0 {
        HALF_CLOSED_SECS
    } else if forward & DATA == 0 {
        HALF_OPEN_SECS
    } else {
        ESTABLISHED_SECS
    }
}

/// Ticks after which an opening that nobody has gone on with holds its source
/// port no longer against a flow that finds no free one: at least 1.07 s. Else a flood
/// of openings from random addresses would hold all ports for [`HALF_OPEN_SECS`].
pub const OPENING_TICKS: Tick = 2;

/// Whether a pending flow may lose its source port: last used at `used` by its
/// client, of whom `forward` was seen. What has begun without a SYN may be a
/// connection of old, and stays.
#[inline(always)]
pub const fn is_abandoned(protocol: u8, forward: u8, used: Tick, now: Tick) -> bool {
    (protocol != TCP || forward == SYN) && now.saturating_sub(used) >= OPENING_TICKS
}

/// Whether an entry that was last used at `used` is too old.
pub const fn is_expired(used: Tick, now: Tick, lifetime_secs: u32) -> bool {
    elapsed_secs(used, now) > lifetime_secs
}

/// A short name of the way by which a client's packets come: its link and
/// its next hop. Two ways may share one (in 1 of 2^32 cases); then replies go the
/// old way until the flow ends.
#[inline(always)]
pub const fn next_hop(ifindex: u32, mac: Mac) -> u32 {
    let [a, b, c, d, e, f] = mac.bytes();
    u32::from_ne_bytes([c, d, e, f]) ^ u32::from_ne_bytes([0, 0, a, b]) ^ ifindex.wrapping_mul(0x9e37_79b9)
}

/// The source port to try for the `attempt`-th time, as a number in
/// `first..=last`: the client's own, then others that follow from client and
/// attempt alone, so that every box with the same flows chooses the same.
#[inline(always)]
pub const fn candidate_port(
    client: Address,
    client_port: WirePort,
    attempt: u32,
    first: u16,
    last: u16,
) -> WirePort {
    let own = client_port.number();
    if attempt == 0 && first <= own && own <= last {
        return client_port;
    }
    let [high, low] = client.words();
    let seed = high.rotate_left(32) ^ low ^ ((client_port.wire() as u64) << 48) ^ attempt as u64;
    let span = last.saturating_sub(first) as u64 + 1;
    WirePort::new(first.wrapping_add((crate::hash::mix(seed) % span) as u16))
}

/// Key of the ports that a fragmented packet has: 40 bytes (RFC 791, 3.2;
/// RFC 8200, 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification, as on the wire; IPv4 has two bytes of it.
    pub id: u32,
    /// [`TCP`] or [`UDP`](crate::frontend::UDP).
    pub protocol: u8,
    /// Zeros.
    pub padding: [u8; 3],
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

/// The ports that stand in the first fragment: 4 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentPorts {
    /// Source port.
    pub source: WirePort,
    /// Destination port.
    pub destination: WirePort,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_table::{Line, lines};
    use crate::frontend::UDP;

    #[test]
    fn a_connection_lives_and_ends() {
        let life = |forward: &[u8], reply: &[u8]| {
            let seen = |flags: &[u8]| flags.iter().fold(0, |seen, flags| step(seen, *flags));
            lifetime_secs(TCP, seen(forward), seen(reply))
        };
        assert_eq!(life(&[SYN], &[]), HALF_OPEN_SECS);
        assert_eq!(life(&[SYN], &[SYN | ACK]), HALF_OPEN_SECS);
        assert_eq!(life(&[SYN, ACK], &[SYN | ACK]), ESTABLISHED_SECS);
        assert_eq!(life(&[SYN, ACK, FIN | ACK], &[SYN | ACK]), HALF_CLOSED_SECS);
        assert_eq!(life(&[SYN, ACK, FIN | ACK], &[SYN | ACK, FIN | ACK]), CLOSED_SECS);
        assert_eq!(life(&[SYN, ACK], &[RST]), CLOSED_SECS);
        // The same ports again.
        assert_eq!(life(&[SYN, ACK, FIN | ACK, SYN], &[SYN | ACK, FIN | ACK, SYN | ACK]), HALF_OPEN_SECS);
        // A flow that began elsewhere.
        assert_eq!(life(&[ACK], &[]), ESTABLISHED_SECS);
    }

    #[test]
    fn udp_lives_longer_once_answered() {
        assert_eq!(lifetime_secs(UDP, step(0, 0), 0), UDP_UNANSWERED_SECS);
        assert_eq!(lifetime_secs(UDP, step(0, 0), step(0, 0)), UDP_SECS);
        assert!(is_expired(0, 100, 30) && !is_expired(90, 100, 30));
    }

    #[test]
    fn an_opening_without_an_end_is_abandoned() {
        let is_lost = |protocol, flags: &[u8], ticks| {
            let seen = flags.iter().fold(0, |seen, flags| step(seen, *flags));
            is_abandoned(protocol, seen, 100, 100 + ticks)
        };
        assert!(is_lost(TCP, &[SYN, SYN], OPENING_TICKS) && is_lost(UDP, &[0, 0], OPENING_TICKS));
        assert!(!is_lost(TCP, &[SYN], OPENING_TICKS - 1) && !is_lost(UDP, &[0], 1));
        assert!(!is_lost(TCP, &[SYN, ACK], 1000) && !is_lost(TCP, &[ACK], 1000));
    }

    #[test]
    fn only_a_plain_syn_opens() {
        assert!(opens(SYN) && opens(SYN | 0xc0));
        assert!(![SYN | ACK, SYN | FIN, SYN | RST, ACK, 0].into_iter().any(opens));
    }

    #[test]
    fn ports_are_the_clients_own_then_spread_over_the_range() {
        let client = Address::from_v4_word(7);
        let port = |own, attempt| candidate_port(client, WirePort::new(own), attempt, 1024, 65_535).number();
        assert_eq!(port(40_000, 0), 40_000);
        assert!(port(80, 0) >= 1024);
        let mut others: [u16; 16] = core::array::from_fn(|attempt| port(40_000, attempt as u32));
        others.sort_unstable();
        assert!(others.windows(2).all(|pair| pair[0] != pair[1]), "{others:?}");
        assert_eq!(candidate_port(client, WirePort::new(9), 3, 5000, 5000).number(), 5000);
    }

    #[test]
    fn the_key_of_replies_is_what_its_fields_say() {
        let (backend, port) = (Address::new([7; 16]), WirePort::new);
        let key =
            ReplyKey { backend, backend_port: port(1), snat_port: port(2), protocol: UDP, padding: [0; 3] };
        assert_eq!(ReplyKey::new(backend, port(1), port(2), UDP), key);
    }

    #[test]
    fn tcp_and_udp_of_a_vip_have_different_keys_and_so_have_vips() {
        let v4 = |last| Address::from_v4_word(u32::from_ne_bytes([192, 0, 2, last]));
        let v6 = |last| Address::new([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        let vips = [v4(1), v4(2), v6(1), v6(2)];
        let keys: [u32; 8] = core::array::from_fn(|n| {
            let protocol = if n < 4 { TCP } else { UDP };
            forward_key(v4(9), WirePort::new(1), vips[n % 4], WirePort::new(2), protocol).vip
        });
        assert!((0..8).all(|n| !keys[..n].contains(&keys[n])), "{keys:x?}");
    }

    #[test]
    fn another_way_has_another_name() {
        let mac = Mac::new([2, 0, 0, 0, 0, 1]);
        assert_ne!(next_hop(1, mac), next_hop(2, mac));
        assert_ne!(next_hop(1, mac), next_hop(1, Mac::new([2, 0, 0, 0, 0, 2])));
    }

    #[test]
    fn a_million_connections_fit() {
        let bytes = 2 * lines(1_000_000) as usize * size_of::<Line>();
        assert!(bytes < 230_000_000, "{bytes}");
    }
}
