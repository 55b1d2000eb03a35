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
use llb_common::conntrack::{ReplyEntry, ReplyKey, candidate_port};
use llb_common::frontend::{FrontendKey, TCP};
use llb_common::parse::Packet;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::confirm::find_reply;
use crate::decide::Decision;
use crate::maps::{FRONTENDS, PENDING_REPLIES, SETTINGS};

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
    for attempt in 0..MOST_ATTEMPTS {
        key.snat_port = candidate_port(packet.source, packet.source_port, attempt, first, last);
        if claim(context, &key, &decision.reply, &backend.snat) != 0 {
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
