// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Mode NAT: the way back to a client by the routes of this machine, if the agent has chosen that
//! (`LinkSettings::returns_by_routes`). By default replies go to where the client's last packet came from; that is
//! decided in `flow.rs`.
//!
//! The kernel is asked when a flow begins, and once a tick with a packet of its client (`flow.rs`). Where the kernel
//! gives no whole way by one of our links, replies keep the way that they have, until the client's packets come by
//! another way: then they go there, as by default.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_fib_lookup as Lookup;
use aya_ebpf::helpers::bpf_fib_lookup;
use llb_common::address::Mac;
use llb_common::conntrack::ReplyEntry;
use llb_common::parse::Packet;

use crate::maps::LINKS;
use crate::outcome::Done;

/// The number of the loopback link in every network namespace. As the kernel does for its own answers, the routes
/// are asked as for a packet from there: then rules for the source address hold, and the link's own `forwarding`
/// need not be on.
const LOOPBACK: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Puts the way to the client of `packet` into its reply entry. Not done: there is no whole way.
#[inline(never)]
pub(crate) fn by_routes(context: *mut c_void, packet: &Packet, entry: &mut ReplyEntry) -> Done {
    let mut words = [0_u64; 8];
    let lookup = words.as_mut_ptr().cast::<Lookup>();
    let is_v4 = packet.is_v6 == 0;
    // SAFETY: `Lookup` has the size and at most the alignment of `words`, and every value of its fields is valid. The
    // helper reads and writes this memory only.
    unsafe {
        (*lookup).family = if is_v4 { AF_INET } else { AF_INET6 };
        (*lookup).l4_protocol = packet.protocol;
        (*lookup).sport = packet.destination_port.wire();
        (*lookup).dport = packet.source_port.wire();
        // Fits everywhere: without a length, the kernel would compare the client's packet with the route's MTU.
        (*lookup).__bindgen_anon_1.tot_len = 1;
        (*lookup).ifindex = LOOPBACK;
        if is_v4 {
            (*lookup).__bindgen_anon_3.ipv4_src = packet.destination.v4_word();
            (*lookup).__bindgen_anon_4.ipv4_dst = packet.source.v4_word();
        } else {
            let ([a, b], [c, d]) = (packet.destination.words(), packet.source.words());
            (*lookup).__bindgen_anon_3.ipv6_src = [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32];
            (*lookup).__bindgen_anon_4.ipv6_dst = [c as u32, (c >> 32) as u32, d as u32, (d >> 32) as u32];
        }
        if bpf_fib_lookup(context, lookup, size_of::<Lookup>() as i32, 0) != 0 {
            return Done::No;
        }
        let ifindex = (*lookup).ifindex;
        let mac = Mac::new((*lookup).__bindgen_anon_6.__bindgen_anon_2.dmac);
        // Older kernels also give neighbours that they still look for.
        if mac.is_unknown() || LINKS.get(&ifindex).is_none() {
            return Done::No;
        }
        (entry.ifindex, entry.mac) = (ifindex, mac);
    }
    Done::Yes
}
