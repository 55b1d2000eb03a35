//! Mode NAT: the source port that a backend sees, and the reply entry that
//! holds it. Whoever has the entry has the port.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_NOEXIST, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1};
use aya_ebpf::bindings::{
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use llb_common::address::{Address, Port};
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{
    FIN, ForwardEntry, RST, ReplyEntry, ReplyKey, candidate_port, forward_key, has_ended, is_abandoned,
};
use llb_common::frontend::{FrontendKey, TCP};
use llb_common::parse::Packet;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::confirm::find_reply;
use crate::decide::Decision;
use crate::maps::{FLOWS, FRONTENDS, PENDING_FLOWS, PENDING_REPLIES, REPLIES, SETTINGS, backend};
use crate::window::hide;

/// Ports that are tried for a flow. With half of a backend's ports taken, one
/// in 65,536 flows is refused.
const MOST_ATTEMPTS: u32 = 16;

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
    for attempt in 0..2 * MOST_ATTEMPTS {
        let candidate = attempt % MOST_ATTEMPTS;
        key.snat_port = candidate_port(packet.source, packet.source_port, candidate, first, last);
        let is_ours = if attempt < MOST_ATTEMPTS {
            claim(context, &key, &decision.reply, &backend.snat)
        } else {
            // Nothing is free: one whose flow has ended, or never came to be.
            take(&key, &decision.reply)
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
#[inline(never)]
fn take(key: &ReplyKey, entry: &ReplyEntry) -> u32 {
    let Some((holder, is_pending)) = find_reply(key) else { return 0 };
    // SAFETY: memory that stays while the program runs, and is only read; if
    // it becomes another flow's meanwhile, removing it fails, or that one begins anew.
    let holder = unsafe { &*holder };
    if let Some(backend) = backend(holder.backend) {
        let forward =
            forward_key(holder.client, holder.client_port, backend.vip, backend.vip_port, key.protocol);
        let placed = FLOWS.get_ptr_mut(&forward);
        let found = placed.or_else(|| PENDING_FLOWS.get_ptr_mut(&forward));
        // SAFETY: as above.
        let flow = found.map(|flow| unsafe { &*flow });
        // Of the same client and ports, but later: it has another source port.
        let flow = flow.filter(|flow| flow.backend == holder.backend && flow.snat_port == key.snat_port);
        let is_placed = hide(placed.is_some());
        if !is_over(key.protocol, flow, is_placed, is_pending, holder, entry.used) {
            return 0;
        }
        if flow.is_some() {
            let _ = FLOWS.remove(&forward);
            let _ = PENDING_FLOWS.remove(&forward);
        }
    }
    let removed = if is_pending { PENDING_REPLIES.remove(key) } else { REPLIES.remove(key) };
    // Else another CPU was faster.
    u32::from(removed.is_ok() && PENDING_REPLIES.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok())
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
    // Where only the backend has ended, a CPU may have a copy of a forward entry
    // that has its place, and could send by it for a while: left to the sweep.
    let may_be_copied = is_placed && flow.seen & (FIN | RST) == 0;
    let has_ended = protocol == TCP && has_ended(flow.seen, reply.seen) && !may_be_copied;
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
    let (sport, dport) = (key.backend_port.wire(), key.snat_port.wire());
    let (mut tuple, bytes) = if snat.is_v4() {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: key.backend.v4_word(),
            daddr: snat.v4_word(),
            sport,
            dport,
        };
        (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4 } }, size_of_val(&ipv4))
    } else {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: quarters(&key.backend),
            daddr: quarters(snat),
            sport,
            dport,
        };
        (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } }, size_of_val(&ipv6))
    };
    // SAFETY: the tuple has as many bytes as is said, and a socket that is
    // found is given back.
    unsafe {
        let socket = if key.protocol == TCP {
            bpf_skc_lookup_tcp(context, &raw mut tuple, bytes as u32, CURRENT_NAMESPACE, 0)
        } else {
            bpf_sk_lookup_udp(context, &raw mut tuple, bytes as u32, CURRENT_NAMESPACE, 0)
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
