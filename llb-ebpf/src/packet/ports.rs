// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Mode NAT: the source port that a backend sees, and the reply entry that holds it. The flow that has the
//! reply entry of a port has the port.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use llb_common::address::{Address, WirePort};
use llb_common::conntrack::{ForwardEntry, ForwardKey, ReplyKey, candidate_port, forward_key, has_ended};
use llb_common::frontend::{FrontendKey, TCP};
use llb_common::parse::Packet;
use llb_common::port_holder::PortHolder;
use llb_common::settings::LinkSettings;

use crate::decision::{Decision, PortSearch};
use crate::flow::{find_reply, is_reply_of, reply_entry, reply_key};
use crate::flow_table::{flows, remove_flow, remove_reply};
use crate::maps::{FRONTENDS, PENDING_FLOWS, PENDING_REPLIES, SCRATCH, SETTINGS, backend};
use crate::outcome::Done;
use crate::return_path;
use crate::window::{forget_contents, hide};

/// Candidate ports of a flow. If half of a backend's ports are taken, one flow in 65,536 finds none.
const CANDIDATES: u32 = 16;
/// Candidates are tried in groups of this many: first for one that is free, then for one whose flow gives
/// way. Looking for free ones among all candidates first would be too much work for each packet of a
/// flood, which leaves none free.
const GROUP: u32 = 4;

/// Finds a source port for a new flow at the backend of `decision`, and makes the flow's reply entry. Leaves the
/// port in `decision`.
///
/// First comes the port that the same client's last connection had, from the same port to the same backend: nearly
/// always it is free, and a backend that still waits for late packets (TIME-WAIT) expects that client's numbers.
///
/// Then there are up to 48 attempts: each group for a free port, then for one whose flow gives way; as a last
/// resort, all candidates for one whose flow gives way at last (see `port_holder.rs` in `llb-common`).
#[inline(never)]
pub(crate) fn find(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    link: &LinkSettings,
) -> Done {
    let (Some(settings), Some(backend)) = (SETTINGS.get(0), backend(decision.backend)) else {
        return Done::No;
    };
    let (first, last) = (settings.snat_first_port, settings.snat_last_port);
    let search = &mut decision.search;
    search.key = reply_key(backend, WirePort::default());
    search.entry = reply_entry(packet, backend, link, decision.now);
    if link.returns_by_routes != 0 {
        let _ = return_path::by_routes(context, packet, &mut search.entry);
    }
    search.now = decision.now;
    let former = &decision.left;
    if search.has_former != 0
        && former.backend == decision.backend
        && (first..=last).contains(&former.snat_port.number())
    {
        search.key.snat_port = former.snat_port;
        if claim(context, search, &backend.snat).is_yes() {
            decision.source_port = search.key.snat_port;
            return Done::Yes;
        }
    }
    for attempt in 0..3 * CANDIDATES {
        let (half_round, number) = (attempt / GROUP, attempt % GROUP);
        let is_last_resort = attempt >= 2 * CANDIDATES;
        let candidate =
            if is_last_resort { attempt - 2 * CANDIDATES } else { half_round / 2 * GROUP + number };
        search.key.snat_port = candidate_port(packet.source, packet.source_port, candidate, first, last);
        search.is_last_resort = u32::from(is_last_resort);
        let result = if !is_last_resort && half_round % 2 == 0 {
            claim(context, search, &backend.snat)
        } else if is_last_resort || search.may_give_way >> (GROUP - 1 - number) & 1 != 0 {
            // Without last resort only pending flows give way, so most candidates need no second look.
            // `take_port` finds the same memory by itself, so the compiler must not keep any of it in registers.
            forget_contents(search);
            take_port()
        } else {
            Done::No
        };
        if result.is_yes() {
            decision.source_port = search.key.snat_port;
            return Done::Yes;
        }
    }
    Done::No
}

/// A flow leaves this backend or this source port: its reply entry goes. Otherwise the entry would hold the
/// port, and the backend's packets would still reach the client.
#[inline(never)]
pub(crate) fn give_back(flow_key: &ForwardKey, left: &ForwardEntry) {
    let Some(backend) = backend(left.backend).filter(|_| left.snat_port != WirePort::default()) else {
        return;
    };
    let key = reply_key(backend, left.snat_port);
    let Some((reply, is_pending)) = find_reply(&key) else { return };
    // SAFETY: `reply` points to a value of a map, which is valid until the program returns, and is only read.
    if is_reply_of(unsafe { &*reply }, &flow_key.client, flow_key.client_port, left.backend) {
        let _ = remove(&key, is_pending);
    }
}

/// Removes a reply entry.
#[inline(always)]
pub(crate) fn remove(key: &ReplyKey, is_pending: bool) -> Done {
    if is_pending { PENDING_REPLIES.remove(key).is_ok().into() } else { remove_reply(key) }
}

/// Gets the port in `search.key` for the new flow if the port is free, or if this flow has it already.
#[inline(never)]
fn claim(context: *mut c_void, search: &mut PortSearch, snat: &Address) -> Done {
    let (key, entry) = (&search.key, &search.entry);
    search.may_give_way <<= 1;
    if let Some((holder, is_pending)) = find_reply(key) {
        // SAFETY: `holder` points to a value of a map, which is valid until the program returns. Only single
        // fields are read and written; other CPUs change only whole fields, too.
        unsafe {
            if !is_reply_of(&*holder, &entry.client, entry.client_port, entry.backend) {
                // An entry of another backend may be left from one that is gone.
                search.may_give_way |= u32::from(is_pending || (*holder).backend != entry.backend);
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

/// Takes the port in `search.key` from a flow that gives way. That flow's forward entry is removed first, so
/// that it sends nothing from this port any more.
///
/// A global function, see `flow_table.rs`. It takes no pointer to the search, but looks for it: before Linux 6.2 the
/// verifier does not take memory that is an argument as the key or the value of a map.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_port() -> Done {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return Done::No };
    // SAFETY: `SCRATCH` is a per-CPU map, so this value is of this CPU and this run only. The caller's reference to
    // it stays live, but is not used before this function returns. The caller gives it to an asm block just before
    // (`forget_contents`), so the compiler must assume that this function reads and writes through it.
    let search = unsafe { &mut (*scratch).decision.search };
    let holder = judge_holder(search);
    if holder & MAY_BE_TAKEN == 0 {
        return Done::No;
    }
    if holder & HAS_FLOW != 0 {
        if !remove_flow(&search.holder).is_yes() && flows().find_by_tag(&search.holder).is_some() {
            return Done::No;
        }
        let _ = PENDING_FLOWS.remove(&search.holder);
    }
    let is_removed = remove(&search.key, holder & PENDING != 0);
    // If it was not removed here, another CPU took the port.
    let is_taken = is_removed.is_yes()
        && PENDING_REPLIES.insert(&search.key, &search.entry, u64::from(BPF_NOEXIST)).is_ok();
    Done::from(is_taken)
}

/// Bit of [`judge_holder`]: the port may be taken.
const MAY_BE_TAKEN: u32 = 1;
/// Bit of [`judge_holder`]: there is a forward entry. Its key is in `search.holder`.
const HAS_FLOW: u32 = 1 << 1;
/// Bit of [`judge_holder`]: the reply entry is a pending one.
const PENDING: u32 = 1 << 2;

/// Says, in bits, what flow has the port in `search.key`, and whether the port may be taken from it.
#[inline(always)]
fn judge_holder(search: &mut PortSearch) -> u32 {
    let (key, now, is_last_resort) = (&search.key, search.now, search.is_last_resort != 0);
    let Some((reply, is_pending)) = find_reply(key) else { return 0 };
    // SAFETY: `reply` points to a value of a map, which is valid until the program returns, and is only
    // read. If it becomes another flow's entry meanwhile, removing it fails, or that flow begins anew.
    let reply = unsafe { &*reply };
    let pending = if is_pending { PENDING } else { 0 };
    let Some(backend) = backend(reply.backend) else { return MAY_BE_TAKEN | pending };
    search.holder = forward_key(reply.client, reply.client_port, backend.vip, backend.vip_port, key.protocol);
    let placed = flows().find_by_tag(&search.holder);
    let found = placed.or_else(|| PENDING_FLOWS.get_ptr_mut(&search.holder));
    // SAFETY: `flow` points to a value of a map, which is valid until the program returns, and is only read.
    // If it becomes another flow's entry meanwhile, the comparison below refuses it.
    let flow = found.map(|flow| unsafe { &*flow });
    // A later flow of the same client and ports has another source port.
    let flow = flow.filter(|flow| flow.backend == reply.backend && flow.snat_port == key.snat_port);
    // Numbers from here on: the compiler would merge the two pointers in a way that the verifier refuses.
    let is_placed = hide(u32::from(placed.is_some())) != 0;
    let (has_flow, forward, forward_used) = flow.map_or((0, 0, 0), |flow| (HAS_FLOW, flow.seen, flow.used));
    let has_flow = hide(has_flow);
    let holder = PortHolder {
        protocol: key.protocol,
        is_pending: is_pending && !is_placed,
        forward,
        reply: reply.seen,
        forward_used,
        reply_used: reply.used,
    };
    let gives_way = if has_flow != 0 {
        holder.gives_way(now) || is_last_resort && holder.gives_way_at_last(now)
    } else {
        // Without a forward entry nothing can continue the flow. But a flow that begins at this moment has
        // its reply entry first, so an entry of this tick stays. One in `REPLIES` is left to the agent, which
        // looks twice.
        is_pending && reply.used < now || is_last_resort && key.protocol == TCP && has_ended(0, reply.seen)
    };
    if gives_way { MAY_BE_TAKEN | pending | has_flow } else { 0 }
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
