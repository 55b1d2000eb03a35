// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Mode NAT: the source port that a backend sees, and the reply entry that holds it. The flow that has the
//! reply entry of a port has the port.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use bytemuck::Zeroable as _;
use llb_common::address::{Address, WirePort};
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{
    CLOSED_SECS, ForwardKey, ReplyEntry, ReplyKey, candidate_port, forward_key, has_ended, is_abandoned,
    is_expired, may_have_ended,
};
use llb_common::frontend::{FrontendKey, TCP};
use llb_common::parse::Packet;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::decision::Decision;
use crate::flow::{find_reply, is_reply_of, reply_entry, reply_key};
use crate::flow_table::{flows, remove_flow, remove_reply};
use crate::maps::{FRONTENDS, PENDING_FLOWS, PENDING_REPLIES, SETTINGS, backend};
use crate::outcome::Done;
use crate::window::hide;

/// Candidate ports of a flow. If half of a backend's ports are taken, one flow in 65,536 finds none.
const CANDIDATES: u32 = 16;
/// Candidates are tried in groups of this many: first for one that is free, then for one whose flow was
/// abandoned. Looking for free ones among all candidates first would be too much work for each packet of a
/// flood, which leaves none free.
const GROUP: u32 = 4;

/// Finds a source port for a new flow, and makes the flow's reply entry.
///
/// There are up to 48 attempts: each group for a free port, then for one whose flow was abandoned; as a last
/// resort, all candidates for one whose flow has ended.
#[inline(always)]
pub(crate) fn find(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    backend: &BackendEntry,
    link: &LinkSettings,
) -> Option<WirePort> {
    let settings = SETTINGS.get(0)?;
    let (first, last) = (settings.snat_first_port, settings.snat_last_port);
    let mut key = reply_key(backend, WirePort::default());
    decision.reply = reply_entry(packet, backend, link, decision.now);
    for attempt in 0..3 * CANDIDATES {
        let (half_round, number) = (attempt / GROUP, attempt % GROUP);
        let is_last_resort = attempt >= 2 * CANDIDATES;
        let candidate =
            if is_last_resort { attempt - 2 * CANDIDATES } else { half_round / 2 * GROUP + number };
        key.snat_port = candidate_port(packet.source, packet.source_port, candidate, first, last);
        let result = if !is_last_resort && half_round % 2 == 0 {
            claim(context, &key, &decision.reply, &backend.snat)
        } else {
            take_port(&key, &decision.reply, decision.now, u32::from(is_last_resort))
        };
        if result.is_yes() {
            return Some(key.snat_port);
        }
    }
    None
}

/// Gets the port in `key` for the flow of `entry` if the port is free, or if this flow has it already.
#[inline(never)]
pub(crate) fn claim(context: *mut c_void, key: &ReplyKey, entry: &ReplyEntry, snat: &Address) -> Done {
    if let Some((holder, _)) = find_reply(key) {
        // SAFETY: `holder` points to a value of a map, which is valid until the program returns. Only single
        // fields are read and written; other CPUs change only whole fields, too.
        unsafe {
            if !is_reply_of(&*holder, &entry.client, entry.client_port, entry.backend) {
                return Done::No;
            }
            // The entry is left from an earlier flow, whose packets may have come from another next hop.
            (*holder).mac = entry.mac;
            (*holder).ifindex = entry.ifindex;
        }
        return Done::Yes;
    }
    let frontend = FrontendKey::new(*snat, key.snat_port, key.protocol);
    // SAFETY: the value behind the reference is not read.
    let is_frontend = unsafe { FRONTENDS.get(&frontend) }.is_some();
    if is_frontend || is_of_a_socket(context, key, snat) {
        return Done::No;
    }
    PENDING_REPLIES.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok().into()
}

/// Takes the port in `key` from a flow that was abandoned while it was pending or, if `ended_too` is not 0,
/// from a flow that has ended. That flow's forward entry is removed first, so that it sends nothing from this
/// port any more.
///
/// A global function, see `flow_table.rs`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_port(key: *const ReplyKey, entry: *const ReplyEntry, now: Tick, ended_too: u32) -> Done {
    // SAFETY: for each caller the verifier checks that each pointer is null or points to readable memory of
    // the size of its type.
    let (Some(key), Some(entry)) = (unsafe { (key.as_ref(), entry.as_ref()) }) else { return Done::No };
    let mut holder_key = ForwardKey::zeroed();
    let holder = judge_holder(key, now, ended_too, &mut holder_key);
    if holder & MAY_BE_TAKEN == 0 {
        return Done::No;
    }
    if holder & HAS_FLOW != 0 {
        if !remove_flow(&holder_key).is_yes() && flows().find_by_tag(&holder_key).is_some() {
            return Done::No;
        }
        let _ = PENDING_FLOWS.remove(&holder_key);
    }
    let is_removed =
        if holder & PENDING != 0 { PENDING_REPLIES.remove(key).is_ok() } else { remove_reply(key).is_yes() };
    // If it was not removed here, another CPU took the port.
    Done::from(is_removed && PENDING_REPLIES.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok())
}

/// Bit of [`judge_holder`]: the port may be taken.
const MAY_BE_TAKEN: u32 = 1;
/// Bit of [`judge_holder`]: there is a forward entry. Its key is in `holder_key`.
const HAS_FLOW: u32 = 1 << 1;
/// Bit of [`judge_holder`]: the reply entry is a pending one.
const PENDING: u32 = 1 << 2;

/// Says, in bits, what flow has the port in `key`, and whether the port may be taken from it.
#[inline(always)]
fn judge_holder(key: &ReplyKey, now: Tick, ended_too: u32, holder_key: &mut ForwardKey) -> u32 {
    let Some((holder, is_pending)) = find_reply(key) else { return 0 };
    // SAFETY: `holder` points to a value of a map, which is valid until the program returns, and is only
    // read. If it becomes another flow's entry meanwhile, removing it fails, or that flow begins anew.
    let holder = unsafe { &*holder };
    let pending = if is_pending { PENDING } else { 0 };
    let Some(backend) = backend(holder.backend) else { return MAY_BE_TAKEN | pending };
    *holder_key = forward_key(holder.client, holder.client_port, backend.vip, backend.vip_port, key.protocol);
    let placed = flows().find_by_tag(holder_key);
    let found = placed.or_else(|| PENDING_FLOWS.get_ptr_mut(&*holder_key));
    // SAFETY: `flow` points to a value of a map, which is valid until the program returns, and is only read.
    // If it becomes another flow's entry meanwhile, the comparison below refuses it.
    let flow = found.map(|flow| unsafe { &*flow });
    // A later flow of the same client and ports has another source port.
    let flow = flow.filter(|flow| flow.backend == holder.backend && flow.snat_port == key.snat_port);
    // Numbers from here on: the compiler would merge the two pointers in a way that the verifier refuses.
    let is_placed = hide(u32::from(placed.is_some())) != 0;
    let (has_flow, seen, used) = flow.map_or((0, 0, 0), |flow| (HAS_FLOW, flow.seen, flow.used));
    let has_flow = hide(has_flow);
    let is_left = if has_flow != 0 {
        is_abandoned(key.protocol, seen, used, now)
    } else {
        // Without a forward entry nothing can continue the flow. But a flow that begins at this moment has
        // its reply entry first, so an entry of this tick stays.
        holder.used < now
    };
    let last = if holder.used > used { holder.used } else { used };
    let is_over = has_ended(seen, holder.seen)
        || may_have_ended(seen, holder.seen) && is_expired(last, now, CLOSED_SECS);
    let has_ended = ended_too != 0 && key.protocol == TCP && is_over;
    if has_ended || is_pending && !is_placed && is_left { MAY_BE_TAKEN | pending | has_flow } else { 0 }
}

/// Whether the kernel would give a packet of the backend to this port to a socket of the host: one that
/// listens on the port, or is connected to the backend from it.
#[inline(always)]
fn is_of_a_socket(context: *mut c_void, key: &ReplyKey, snat: &Address) -> bool {
    const CURRENT_NAMESPACE: u64 = u64::MAX;
    // struct bpf_sock_tuple: source, destination, and both ports in one word. The array is filled to its end,
    // because the verifier refuses a read of stack memory that the compiler did not bother to write.
    let [[a, b], [c, d]] = [key.backend_port, key.snat_port].map(|port| port.wire().to_ne_bytes());
    let ports = u32::from_ne_bytes([a, b, c, d]);
    let ([e, f, g, h], [i, j, k, l]) = (quarters(&key.backend), quarters(snat));
    let (mut tuple, bytes) = if snat.is_v4() {
        ([h, l, ports, 0, 0, 0, 0, 0, 0], 12)
    } else {
        ([e, f, g, h, i, j, k, l, ports], 36)
    };
    let tuple = (&raw mut tuple).cast();
    // SAFETY: the tuple has at least `bytes` bytes, and a socket that is found is released before the
    // function returns.
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

/// The four words of an address, in the order of memory.
#[inline(always)]
fn quarters(address: &Address) -> [u32; 4] {
    let [high, low] = address.words();
    [high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]
}
