// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! One packet from its bytes to its verdict: the order of things. What is
//! decided for the two directions is in `forward.rs` and `reply.rs`.

use core::ffi::c_void;

use llb_common::address::{Address, Mac, Port};
use llb_common::backend::BackendId;
use llb_common::conntrack::ReplyEntry;
use llb_common::parse::{Packet, Shape, Unparsed, parse, parse_plain};
use llb_common::reason::{Reason, Verdict};
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;
use llb_common::trace::NO_REASON;

use crate::clock::Clock;
use crate::hooks::Hook;
use crate::maps::{LINK, LINKS, SCRATCH};
use crate::select::Flow;
use crate::window::forget_contents;
use crate::{counters, forward, fragment, notice, reply, rewrite, trace};

/// Memory of one run, of this CPU: too large for the stack, and unknown to the
/// verifier, which would follow every kind of packet on its own otherwise.
#[repr(C)]
pub(crate) struct Scratch {
    /// What came.
    pub(crate) packet: Packet,
    /// What becomes of it, once decided.
    pub(crate) decision: Decision,
    /// What time it is.
    pub(crate) clock: Clock,
}

/// Where a packet goes, and as what.
#[repr(C)]
pub(crate) struct Decision {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) backend: BackendId,
    pub(crate) ifindex: u32,
    pub(crate) source_port: Port,
    pub(crate) destination_port: Port,
    pub(crate) destination_mac: Mac,
    pub(crate) source_mac: Mac,
    /// 0: only the two MAC addresses are written.
    pub(crate) is_nat: u32,
    /// When it came.
    pub(crate) now: Tick,
    /// The flow that a backend is selected for.
    pub(crate) flow: Flow,
    /// The reply entry that a new flow is to have.
    pub(crate) reply: ReplyEntry,
}

/// Why nothing is rewritten.
pub(crate) enum Stop {
    /// It is of none of our flows.
    NotOurs,
    /// It is, but.
    Because(Reason),
}

impl From<Reason> for Stop {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::Because(reason)
    }
}

/// The whole way of a packet.
#[inline(always)]
pub(crate) fn run<H: Hook>(context: *mut c_void) -> H::Action {
    counters::count_frame(H::open(context).length());
    let Some(link) = LINK.get(0) else { return H::PASS };
    if link.ifindex == 0 {
        return H::PASS;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return H::PASS };
    // SAFETY: this CPU's own memory, and nothing else runs on it meanwhile.
    let is_plain = parse_plain(&H::open(context), unsafe { &mut (*scratch).packet }).is_ok();
    // SAFETY: as above.
    if !is_plain && read::<H>(context, unsafe { &mut (*scratch).packet }) == 0 {
        return H::PASS;
    }
    let scratch = forget_contents(scratch);
    let hook = &mut H::open(context);
    // SAFETY: as above.
    let Scratch { packet, decision, clock } = unsafe { &mut *scratch };
    if packet.destination_mac != link.mac || packet.is_cut() {
        return H::PASS;
    }
    decision.now = clock.tick();
    let (is_reply, result) = match decide(hook, packet, decision, link) {
        (_, Err(Stop::NotOurs)) => return H::PASS,
        (is_reply, Err(Stop::Because(reason))) => (is_reply, Err(reason)),
        (is_reply, Ok(())) => (is_reply, admit(hook, packet, decision)),
    };
    let result = match result {
        Ok(()) if rewrite::apply::<H>(context, packet, decision).is_none() => Err(Reason::Failed),
        stopped => stopped,
    };
    if link.traces != 0 {
        let reason = result.map_or_else(|reason| reason as u32, |()| u32::from(NO_REASON));
        trace::show(packet, decision, link.ifindex, u32::from(is_reply), reason);
    }
    match result {
        Ok(()) => {
            counters::count_packet(decision.backend, packet.length, is_reply);
            hook.send(decision.ifindex, decision.ifindex == link.ifindex)
        }
        Err(reason) => {
            counters::count_reason(reason);
            if notice::is_due(reason) {
                notice::give::<H>(context, packet, decision, link.ifindex, reason as u32);
            }
            if reason.verdict() == Verdict::Drop { H::DROP } else { H::PASS }
        }
    }
}

/// Whether there is a flow in it: 1, else 0. A function of its own, for its
/// own stack, and so that all kinds of packets come out of it alike.
#[inline(never)]
fn read<H: Hook>(context: *mut c_void, packet: &mut Packet) -> u32 {
    let mut hook = H::open(context);
    for _ in 0..2 {
        match parse(&hook, packet) {
            Ok(_) => return 1,
            Err(Unparsed::Truncated) if hook.pull() => {}
            Err(_) => return 0,
        }
    }
    0
}

#[inline(always)]
fn decide<H: Hook>(
    hook: &H,
    packet: &mut Packet,
    decision: &mut Decision,
    link: &LinkSettings,
) -> (bool, Result<(), Stop>) {
    if packet.shape == Shape::LaterFragment as u8 && fragment::find_ports(packet) == 0 {
        return (false, Err(Reason::UnknownFragment.into()));
    }
    match reply::decide(packet, decision, link) {
        Err(Stop::NotOurs) => (false, forward::decide(hook, packet, decision, link)),
        result => (true, result),
    }
}

/// What holds for both directions, after it is known where a packet goes.
#[inline(always)]
fn admit<H: Hook>(_hook: &H, packet: &Packet, decision: &Decision) -> Result<(), Reason> {
    if decision.is_nat != 0 {
        if packet.time_to_live <= 1 {
            return Err(Reason::TimeToLive);
        }
        if packet.is_v6 != 0 && packet.has_checksum == 0 {
            return Err(Reason::NoChecksum);
        }
    }
    if decision.destination_mac.is_unknown() || decision.ifindex == 0 {
        return Err(Reason::NoNeighbour);
    }
    if packet.is_first_fragment != 0 {
        fragment::remember_ports(packet);
    }
    Ok(())
}

/// Address of one of our links.
#[inline(always)]
pub(crate) fn own_mac(ifindex: u32, link: &LinkSettings) -> Result<Mac, Reason> {
    if ifindex == link.ifindex {
        return Ok(link.mac.copied());
    }
    // SAFETY: only read; a value that the agent replaces meanwhile stays
    // until the program ends.
    match unsafe { LINKS.get(&ifindex) } {
        Some((mac, _)) => Ok(mac.copied()),
        None => Err(Reason::NoNeighbour),
    }
}
