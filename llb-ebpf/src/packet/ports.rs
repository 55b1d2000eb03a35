// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Mode NAT: the source port that a backend sees, and the reply entry that
//! holds it. Whoever has the entry has the port.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use bytemuck::Zeroable as _;
use llb_common::address::{Address, Port};
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{
    ForwardKey, ReplyEntry, ReplyKey, candidate_port, forward_key, has_ended, is_abandoned,
};
use llb_common::frontend::{FrontendKey, TCP};
use llb_common::parse::Packet;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::confirm::find_reply;
use crate::decide::Decision;
use crate::flow_table::{flows, remove_flow, remove_reply};
use crate::maps::{FRONTENDS, PENDING_FLOWS, PENDING_REPLIES, SETTINGS, backend};
use crate::window::hide;

/// Ports that are tried for a flow. With half of a backend's ports taken, one
/// in 65,536 flows is refused.
const CANDIDATES: u32 = 16;
/// Of so many, one that is free is preferred to that of an opening that nobody has gone on
/// with. More would be too much work for each packet of a flood, which leaves none free.
const AT_ONCE: u32 = 4;

/// Finds a port for a new flow and makes its reply entry.
#[inline(always)]
pub(crate) fn find(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    backend: &BackendEntry,
    link: &LinkSettings,
) -> Option<Port> {
    let settings = SETTINGS.get(0)?;
    let (first, last) = (settings.snat_first_port, settings.snat_last_port);
    let mut key = reply_key(backend, Port::default());
    decision.reply = reply_entry(packet, backend, link, decision.now);
    for attempt in 0..3 * CANDIDATES {
        let (turn, number) = (attempt / AT_ONCE, attempt % AT_ONCE);
        let is_last_resort = attempt >= 2 * CANDIDATES;
        let candidate = if is_last_resort { attempt - 2 * CANDIDATES } else { turn / 2 * AT_ONCE + number };
        key.snat_port = candidate_port(packet.source, packet.source_port, candidate, first, last);
        let is_ours = if !is_last_resort && turn % 2 == 0 {
            claim(context, &key, &decision.reply, &backend.snat)
        } else {
            take_port(&key, &decision.reply, decision.now, u32::from(is_last_resort))
        };
        if is_ours != 0 {
            return Some(key.snat_port);
        }
    }
    None
}

/// Whether the port in `key` is this flow's now: 1, else 0.
#[inline(never)]
pub(crate) fn claim(context: *mut c_void, key: &ReplyKey, entry: &ReplyEntry, snat: &Address) -> u32 {
    if let Some((holder, _)) = find_reply(key) {
        // SAFETY: memory that stays while the program runs; single fields.
        unsafe {
            if !is_same_flow(&*holder, entry) {
                return 0;
            }
            // Left from before; its client may have come by another way then.
            (*holder).mac = entry.mac;
            (*holder).ifindex = entry.ifindex;
        }
        return 1;
    }
    let frontend = FrontendKey::new(*snat, key.snat_port, key.protocol);
    // SAFETY: not even read.
    let is_frontend = unsafe { FRONTENDS.get(&frontend) }.is_some();
    if is_frontend || is_of_a_socket(context, key, snat) {
        return 0;
    }
    u32::from(PENDING_REPLIES.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok())
}

/// Takes the port in `key` from a flow that was abandoned before it came to be, or, if
/// `ended_too` is not 0, from one that has ended: 1, else 0. That flow's forward entry goes
/// first, so that it sends nothing from this port any more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_port(key: *const ReplyKey, entry: *const ReplyEntry, now: Tick, ended_too: u32) -> u32 {
    // SAFETY: null or of its type, which the verifier sees to.
    let (Some(key), Some(entry)) = (unsafe { (key.as_ref(), entry.as_ref()) }) else { return 0 };
    let mut over = ForwardKey::zeroed();
    let holder = judge(key, now, ended_too, &mut over);
    if holder & OVER == 0 {
        return 0;
    }
    if holder & HAS_FLOW != 0 {
        if remove_flow(&over) == 0 && flows().find_by_tag(&over).is_some() {
            return 0;
        }
        let _ = PENDING_FLOWS.remove(&over);
    }
    let is_removed =
        if holder & PENDING != 0 { PENDING_REPLIES.remove(key).is_ok() } else { remove_reply(key) != 0 };
    // Else another CPU was faster.
    u32::from(is_removed && PENDING_REPLIES.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok())
}

/// What [`judge`] says: the port may be taken.
const OVER: u32 = 1;
/// There is a forward entry, whose key is in `over` then.
const HAS_FLOW: u32 = 1 << 1;
/// The reply entry is a pending one.
const PENDING: u32 = 1 << 2;

/// Who has the port in `key`.
#[inline(always)]
fn judge(key: &ReplyKey, now: Tick, ended_too: u32, over: &mut ForwardKey) -> u32 {
    let Some((holder, is_pending)) = find_reply(key) else { return 0 };
    // SAFETY: memory that stays while the program runs, and is only read; if
    // it becomes another flow's meanwhile, removing it fails, or that one begins anew.
    let holder = unsafe { &*holder };
    let pending = if is_pending { PENDING } else { 0 };
    let Some(backend) = backend(holder.backend) else { return OVER | pending };
    *over = forward_key(holder.client, holder.client_port, backend.vip, backend.vip_port, key.protocol);
    let placed = flows().find_by_tag(over);
    let found = placed.or_else(|| PENDING_FLOWS.get_ptr_mut(&*over));
    // SAFETY: as above.
    let flow = found.map(|flow| unsafe { &*flow });
    // Of the same client and ports, but later: it has another source port.
    let flow = flow.filter(|flow| flow.backend == holder.backend && flow.snat_port == key.snat_port);
    // Numbers from here on: a compiler merges pointers in ways that a verifier refuses.
    let is_placed = hide(u32::from(placed.is_some())) != 0;
    let (has_flow, seen, used) = flow.map_or((0, 0, 0), |flow| (HAS_FLOW, flow.seen, flow.used));
    let has_flow = hide(has_flow);
    let is_left = if has_flow != 0 {
        is_abandoned(key.protocol, seen, used, now)
    } else {
        // Nobody goes on; but a flow that is just being made has its reply entry first.
        holder.used < now
    };
    let has_ended = ended_too != 0 && key.protocol == TCP && has_ended(seen, holder.seen);
    if has_ended || is_pending && !is_placed && is_left { OVER | pending | has_flow } else { 0 }
}

#[inline(always)]
pub(crate) fn is_same_flow(holder: &ReplyEntry, entry: &ReplyEntry) -> bool {
    holder.client == entry.client
        && holder.client_port == entry.client_port
        && holder.backend == entry.backend
}

#[inline(always)]
pub(crate) fn reply_key(backend: &BackendEntry, snat_port: Port) -> ReplyKey {
    ReplyKey::new(backend.address, backend.port, snat_port, backend.protocol)
}

#[inline(always)]
pub(crate) fn reply_entry(
    packet: &Packet,
    backend: &BackendEntry,
    link: &LinkSettings,
    now: Tick,
) -> ReplyEntry {
    ReplyEntry {
        client: packet.source,
        backend: backend.id,
        used: now,
        ifindex: link.ifindex,
        mac: packet.source_mac,
        client_port: packet.source_port,
        seen: 0,
        padding: [0; 3],
    }
}

/// Whether a packet of the backend to this port would be for a socket of the
/// host: one that listens there, or is connected to the backend.
#[inline(always)]
fn is_of_a_socket(context: *mut c_void, key: &ReplyKey, snat: &Address) -> bool {
    const CURRENT_NAMESPACE: u64 = u64::MAX;
    // struct bpf_sock_tuple: source, destination, and their ports in one word. All of
    // it is written, since a verifier reads what a compiler knows to be of no use.
    let [[a, b], [c, d]] = [key.backend_port, key.snat_port].map(|port| port.wire().to_ne_bytes());
    let ports = u32::from_ne_bytes([a, b, c, d]);
    let ([e, f, g, h], [i, j, k, l]) = (quarters(&key.backend), quarters(snat));
    let (mut tuple, bytes) = if snat.is_v4() {
        ([h, l, ports, 0, 0, 0, 0, 0, 0], 12)
    } else {
        ([e, f, g, h, i, j, k, l, ports], 36)
    };
    let tuple = (&raw mut tuple).cast();
    // SAFETY: the tuple has as many bytes as is said, and a socket that is
    // found is given back.
    unsafe {
        let socket = if key.protocol == TCP {
            bpf_skc_lookup_tcp(context, tuple, bytes, CURRENT_NAMESPACE, 0)
        } else {
            bpf_sk_lookup_udp(context, tuple, bytes, CURRENT_NAMESPACE, 0)
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}

#[inline(always)]
fn quarters(address: &Address) -> [u32; 4] {
    let [high, low] = address.words();
    [high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]
}
