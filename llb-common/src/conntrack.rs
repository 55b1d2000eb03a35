// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Flow entries: what is remembered of a flow, for the client's packets (forward) and for the backend's
//! (reply), and for how long. The programs decide when an entry is made; the agent removes old ones.
//!
//! ```text
//!   first packet        reply seen, and the client's next packet      idle for `lifetime_secs`
//!  ------------> PENDING_FLOWS -----------------------------------> FLOWS ------------> removed
//!                PENDING_REPLIES            (DSR: the client's       REPLIES
//!                LRU: a flood evicts         second packet)          never evicted by the kernel
//!                only pending flows
//! ```
//!
//! In mode NAT a flow has an entry for each direction. Each entry has all that the packets of its direction
//! need, so a packet looks up one entry only. In mode DSR a flow has only the forward entry. An entry takes a
//! line of 64 bytes in its [`flow_table`](crate::flow_table); with its share of free lines, a flow in mode
//! NAT takes 228 bytes.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac, WirePort, joined};
use crate::backend::BackendId;
use crate::frontend::TCP;
use crate::time::{Tick, elapsed_secs};

/// The key of a [`ForwardEntry`]: 24 bytes, made by [`forward_key`]. It depends on the client's packet alone,
/// so that a packet of a known flow needs only one look-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ForwardKey {
    /// Address of the client.
    pub client: Address,
    /// A hash of VIP and protocol. Two VIPs may have the same one, so the VIP must be compared with the `vip`
    /// of the entry's backend.
    pub vip: u32,
    /// Port of the client.
    pub client_port: WirePort,
    /// Port of the frontend.
    pub vip_port: WirePort,
}

const _: () = assert!(size_of::<ForwardKey>() == 24);

/// The key of the packets from a client to a frontend.
///
/// TCP and UDP of one VIP never share a key. Two IPv4 VIPs share keys only if one address is the bitwise
/// complement of the other, two IPv6 VIPs in 1 of 2^32 cases. Then, if a client has two flows with the same
/// ports to them, only one of the flows is remembered.
#[inline(always)]
pub const fn forward_key(
    client: Address,
    client_port: WirePort,
    vip: Address,
    vip_port: WirePort,
    protocol: u8,
) -> ForwardKey {
    let [high, low] = vip.words();
    // For IPv4 only the first term varies.
    let mixed = high.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let name = (low >> 32) as u32 ^ (mixed >> 32) as u32 ^ (low as u32).wrapping_mul(0x85eb_ca6b);
    let vip = if protocol == TCP { name } else { !name };
    ForwardKey { client, vip, client_port, vip_port }
}

/// What is remembered for the client's packets of a flow: 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct ForwardEntry {
    /// The backend that they go to.
    pub backend: BackendId,
    /// When the last packet came.
    pub used: Tick,
    /// Source port that the backend sees; 0 in mode DSR.
    pub snat_port: WirePort,
    /// What was seen in this direction, see `life_cycle.rs`.
    pub seen: u8,
    /// 1: the reply entry's way was asked from the routes of this machine. 0: it is the way by which the client's
    /// packets came.
    pub is_routed: u8,
    /// The next hop by which the client's packets came, see [`next_hop`]. When it changes, the reply entry must be
    /// changed too, unless its way is that of the routes.
    pub next_hop: u32,
    /// Where the client's stream is: the sequence number of its first packet in the tick `used`, or later
    /// than that. After a FIN: a number that is not less than any that may follow on it. 0: not known.
    pub seq: u32,
    /// Where the backend's stream is, as the client has acknowledged it in that packet. 0: not known.
    pub ack: u32,
}

const _: () = assert!(size_of::<ForwardEntry>() == 24);

/// The key of a [`ReplyEntry`]: 24 bytes. The destination address of the backend's packets is not in it; it
/// must be compared with the backend's `snat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ReplyKey {
    /// Address of the backend.
    pub backend: Address,
    /// Port of the backend.
    pub backend_port: WirePort,
    /// Destination port of the backend's packets: [`ForwardEntry::snat_port`].
    pub snat_port: WirePort,
    /// [`TCP`] or [`UDP`](crate::frontend::UDP).
    pub protocol: u8,
    /// Zeros.
    pub padding: [u8; 3],
}

const _: () = assert!(size_of::<ReplyKey>() == 24);

impl ReplyKey {
    /// The key of the packets from a backend to a source port. It is put together from words, because in eBPF
    /// the compiler would call a function to clear three bytes of padding.
    #[inline(always)]
    pub fn new(backend: Address, backend_port: WirePort, snat_port: WirePort, protocol: u8) -> Self {
        let rest = [backend_port.wire(), snat_port.wire(), u16::from_ne_bytes([protocol, 0]), 0];
        let [high, low] = backend.words();
        bytemuck::cast([high, low, bytemuck::cast(rest)])
    }
}

/// What is remembered for the backend's packets of a flow, in mode NAT: 40 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ReplyEntry {
    /// Address of the client that they go to.
    pub client: Address,
    /// The backend that sends them. Its entry has the VIP.
    pub backend: BackendId,
    /// When the last packet came, or when the entry was made.
    pub used: Tick,
    /// Index of the link by which the client is reached: the one by which its packets came, or that of the route.
    pub ifindex: u32,
    /// MAC address of the client, or of the router that leads to it: the source of its frames, or that of the route.
    pub mac: Mac,
    /// Port of the client.
    pub client_port: WirePort,
    /// What was seen in this direction, see `life_cycle.rs`. 0: no reply yet.
    pub seen: u8,
    /// 1: the backend refused the connection, and the client was not told. 0: not so.
    pub refused: u8,
    /// Zeros.
    pub padding: [u8; 2],
}

const _: () = assert!(size_of::<ReplyEntry>() == 40);

/// A TCP flag, as in the byte at offset 13 of the TCP header (RFC 9293, 3.1).
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 1 << 1;
/// See [`FIN`].
pub const RST: u8 = 1 << 2;
/// See [`FIN`].
pub const ACK: u8 = 1 << 4;

/// A bit of `seen`: a packet without [`SYN`], [`FIN`] and [`RST`] was seen. These three flags are bits of
/// `seen`, too.
pub const DATA: u8 = 1 << 4;
/// A bit of `seen`: the [`FIN`] or [`RST`] in it had a sequence number that this side can hardly have reached.
/// Lifetimes do not trust it.
pub const DOUBTED: u8 = 1 << 3;
/// A bit of `seen`: the other side has reset the connection, and this side has sent nothing since. An end that
/// got a wrong reset answers it (RFC 5961, 3.2), or just goes on.
pub const RESET_BY_OTHER: u8 = 1 << 5;

/// Whether a TCP packet opens a connection. UDP has no such packet.
#[inline(always)]
pub const fn opens(tcp_flags: u8) -> bool {
    tcp_flags & (SYN | ACK | RST | FIN) == SYN
}

/// Lifetime of a handshake without its third packet. Linux repeats a SYN for half of this time before it waits
/// for 32 s.
pub const HALF_OPEN_SECS: u32 = 60;
/// Lifetime of an open connection: at least 2 h 4 min (RFC 5382, REQ-5).
pub const ESTABLISHED_SECS: u32 = 7440;
/// Lifetime after one side has closed, while the other may still send: at least 4 min (RFC 5382, REQ-5).
pub const HALF_CLOSED_SECS: u32 = 300;
/// Lifetime after both sides have closed, or one has reset the connection: enough for packets on their way
/// and for a repeated last packet.
pub const CLOSED_SECS: u32 = 30;
/// Lifetime of a UDP flow that was answered: at least 2 min (RFC 4787, REQ-5).
pub const UDP_SECS: u32 = 180;
/// Lifetime of a UDP flow without an answer.
pub const UDP_UNANSWERED_SECS: u32 = 30;

/// Whether this side has closed or reset the connection, with a sequence number that may be its own.
#[inline(always)]
pub const fn closes(seen: u8) -> bool {
    seen & (FIN | RST) != 0 && seen & DOUBTED == 0
}

/// Whether a connection has ended: both sides have closed it, or one has reset it and the other has sent
/// nothing since. `forward` and `reply` are what was seen in each direction.
#[inline(always)]
pub const fn has_ended(forward: u8, reply: u8) -> bool {
    // A close is doubted more often than it is forged, after much data in little time. But two doubted ones
    // are no proof.
    let is_closed = forward & reply & FIN != 0 && forward & reply & DOUBTED == 0;
    is_closed || is_reset(forward, reply) || is_reset(reply, forward)
}

/// Whether a side has reset the connection, and the other side agrees, if it has sent anything but its SYN.
#[inline(always)]
const fn is_reset(by: u8, other: u8) -> bool {
    by & (RST | DOUBTED) == RST && other & (DATA | RESET_BY_OTHER) != DATA
}

/// Whether a connection may have ended: the same if nothing is doubted. That is not enough to forget an idle
/// connection early. But if ports are short and nothing was heard of the connection for [`CLOSED_SECS`], its
/// port is taken.
#[inline(always)]
pub const fn may_have_ended(forward: u8, reply: u8) -> bool {
    (forward | reply) & RST | forward & reply & FIN != 0
}

/// How long an idle flow is kept, by what was seen in each direction. `reply` is 0 if nothing was seen, as
/// always in mode DSR.
pub const fn lifetime_secs(protocol: u8, forward: u8, reply: u8) -> u32 {
    if protocol != TCP {
        return if reply == 0 { UDP_UNANSWERED_SECS } else { UDP_SECS };
    }
    if has_ended(forward, reply) {
        CLOSED_SECS
    } else if has_closed(forward) || has_closed(reply) {
        HALF_CLOSED_SECS
    } else if forward & DATA == 0 {
        HALF_OPEN_SECS
    } else {
        ESTABLISHED_SECS
    }
}

/// Whether this side has closed its direction.
#[inline(always)]
const fn has_closed(seen: u8) -> bool {
    seen & (FIN | DOUBTED) == FIN
}

/// Whether an entry that was last used at `used` is older than `lifetime_secs`.
pub const fn is_expired(used: Tick, now: Tick, lifetime_secs: u32) -> bool {
    elapsed_secs(used, now) > lifetime_secs
}

/// A number for the next hop towards a client: the link by which its packets came and the source MAC address
/// of its frames. Two next hops have the same number in 1 of 2^32 cases; a change between them is not
/// noticed, and replies go to the old one until the flow ends.
#[inline(always)]
pub const fn next_hop(ifindex: u32, mac: Mac) -> u32 {
    let [first, second, last] = mac.halves();
    joined(second, last) ^ joined(0, first) ^ ifindex.wrapping_mul(0x9e37_79b9)
}

/// The source port to try at attempt number `attempt`, in `first..=last`. First it is the client's own port,
/// if that is in the range. The others depend only on client and attempt, so that all boxes with the same
/// flows choose the same ports.
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

/// The key of [`FragmentPorts`], the same for all fragments of a packet (RFC 791, 3.2; RFC 8200, 4.5): 40
/// bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification, in network order. IPv4 has two bytes of it.
    pub id: u32,
    /// [`TCP`] or [`UDP`](crate::frontend::UDP).
    pub protocol: u8,
    /// Zeros.
    pub padding: [u8; 3],
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

/// The ports of a fragmented packet, which only its first fragment has, or one of two marks: 4 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentPorts {
    /// Source port.
    pub source: WirePort,
    /// Destination port.
    pub destination: WirePort,
}

impl FragmentPorts {
    /// A mark: later fragments have come before the first one. No packet to port 0 is forwarded.
    pub const EARLY: Self = Self { source: WirePort::new(0), destination: WirePort::new(0) };
    /// A mark: the first fragment was not forwarded, so the later ones are not either.
    pub const NOT_FORWARDED: Self = Self { source: WirePort::new(1), destination: WirePort::new(0) };
    /// Not in the map: nothing is known of the packet.
    pub const ABSENT: Self = Self { source: WirePort::new(2), destination: WirePort::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_table::{Line, lines};
    use crate::frontend::UDP;

    #[test]
    fn udp_lives_longer_once_answered() {
        assert_eq!(lifetime_secs(UDP, DATA, 0), UDP_UNANSWERED_SECS);
        assert_eq!(lifetime_secs(UDP, DATA, DATA), UDP_SECS);
        assert!(is_expired(0, 100, 30) && !is_expired(90, 100, 30));
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
    fn a_reply_key_from_words_equals_one_from_fields() {
        let (backend, port) = (Address::new([7; 16]), WirePort::new);
        let key =
            ReplyKey { backend, backend_port: port(1), snat_port: port(2), protocol: UDP, padding: [0; 3] };
        assert_eq!(ReplyKey::new(backend, port(1), port(2), UDP), key);
    }

    #[test]
    fn protocols_and_vips_have_different_keys() {
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
    fn another_link_or_mac_is_another_next_hop() {
        let mac = Mac::new([2, 0, 0, 0, 0, 1]);
        assert_ne!(next_hop(1, mac), next_hop(2, mac));
        assert_ne!(next_hop(1, mac), next_hop(1, Mac::new([2, 0, 0, 0, 0, 2])));
    }

    #[test]
    fn a_million_connections_take_less_than_230_mb() {
        let bytes = 2 * lines(1_000_000) as usize * size_of::<Line>();
        assert!(bytes < 230_000_000, "{bytes}");
    }
}
