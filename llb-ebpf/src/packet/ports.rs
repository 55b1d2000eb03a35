//! Mode NAT: the source port that a backend sees, and the reply entry that
//! holds it. Whoever has the entry has the port.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use llb_common::address::{Address, Port};
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{
    ForwardEntry, ReplyEntry, ReplyKey, candidate_port, forward_key, has_ended, is_abandoned,
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
/// Of so many, one that is free is preferred to one whose flow is over. More would be too
/// much work for each packet of a flood of openings, which leaves none free.
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
    for attempt in 0..2 * CANDIDATES {
        let (turn, number) = (attempt / AT_ONCE, attempt % AT_ONCE);
        let candidate = turn / 2 * AT_ONCE + number;
        key.snat_port = candidate_port(packet.source, packet.source_port, candidate, first, last);
        let is_ours = if turn % 2 == 0 {
            claim(context, &key, &decision.reply, &backend.snat)
        } else {
            // None of these is free: one whose flow has ended, or never came to be.
            take(&key, decision)
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

/// Takes the port in `key` from a flow that has ended or was abandoned: 1,
/// else 0. That flow's forward entry goes first, so that it sends nothing from this
/// port any more.
#[inline(always)]
fn take(key: &ReplyKey, decision: &mut Decision) -> u32 {
    let holder = judge(key, decision);
    if holder & OVER == 0 {
        return 0;
    }
    if holder & HAS_FLOW != 0 {
        if remove_flow(&decision.over) == 0 && flows().find_by_tag(&decision.over).is_some() {
            return 0;
        }
        let _ = PENDING_FLOWS.remove(&decision.over);
    }
    let is_removed =
        if holder & PENDING != 0 { PENDING_REPLIES.remove(key).is_ok() } else { remove_reply(key) != 0 };
    // Else another CPU was faster.
    u32::from(is_removed && PENDING_REPLIES.insert(key, &decision.reply, u64::from(BPF_NOEXIST)).is_ok())
}

/// What [`judge`] says: the port may be taken.
const OVER: u32 = 1;
/// There is a forward entry, whose key is in the decision then.
const HAS_FLOW: u32 = 1 << 1;
/// The reply entry is a pending one.
const PENDING: u32 = 1 << 2;

/// Who has the port in `key`. A function of its own, for its own stack.
#[inline(never)]
fn judge(key: &ReplyKey, decision: &mut Decision) -> u32 {
    let Some((holder, is_pending)) = find_reply(key) else { return 0 };
    // SAFETY: memory that stays while the program runs, and is only read; if
    // it becomes another flow's meanwhile, removing it fails, or that one begins anew.
    let holder = unsafe { &*holder };
    let pending = if is_pending { PENDING } else { 0 };
    let Some(backend) = backend(holder.backend) else { return OVER | pending };
    let forward = forward_key(holder.client, holder.client_port, backend.vip, backend.vip_port, key.protocol);
    let placed = flows().find_by_tag(&forward);
    let found = placed.or_else(|| PENDING_FLOWS.get_ptr_mut(&forward));
    // SAFETY: as above.
    let flow = found.map(|flow| unsafe { &*flow });
    // Of the same client and ports, but later: it has another source port.
    let flow = flow.filter(|flow| flow.backend == holder.backend && flow.snat_port == key.snat_port);
    let is_placed = hide(u32::from(placed.is_some())) != 0;
    if !is_over(key.protocol, flow, is_placed, is_pending, holder, decision.now) {
        return 0;
    }
    decision.over = forward;
    OVER | pending | if flow.is_some() { HAS_FLOW } else { 0 }
}

/// Whether a flow may lose its port: it has ended, or it is pending and was abandoned.
#[inline(always)]
fn is_over(
    protocol: u8,
    flow: Option<&ForwardEntry>,
    is_placed: bool,
    is_pending: bool,
    reply: &ReplyEntry,
    now: Tick,
) -> bool {
    let Some(flow) = flow else {
        // Nobody goes on; but a flow that is just being made has its reply entry first.
        let is_left = is_pending && !is_placed && reply.used < now;
        return protocol == TCP && has_ended(0, reply.seen) || is_left;
    };
    let has_ended = protocol == TCP && has_ended(flow.seen, reply.seen);
    has_ended || is_pending && !is_placed && is_abandoned(protocol, flow.seen, flow.used, now)
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
