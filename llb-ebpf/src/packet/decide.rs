// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The steps of one packet, from its bytes to its verdict, in order. What each step does is in the file that
//! it names.

use core::ffi::c_void;

use llb_common::parse::{Packet, Shape, Unparsed, parse, parse_plain};
use llb_common::reason::{Reason, Verdict};
use llb_common::settings::LinkSettings;
use llb_common::trace::NO_REASON;

use crate::decision::{Decision, Scratch, Stop};
use crate::fragment::Ports;
use crate::hooks::Hook;
use crate::maps::{LINK, SCRATCH};
use crate::outcome::Done;
use crate::window::forget_contents;
use crate::{counters, forward, fragment, notice, reply, rewrite, trace};

/// Runs all steps for the packet of a program's context.
#[inline(always)]
pub(crate) fn run<H: Hook>(context: *mut c_void) -> H::Action {
    counters::count_frame(H::open(context).counted_length());
    let Some(link) = LINK.get(0) else { return H::PASS };
    if link.ifindex == 0 {
        return H::PASS;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return H::PASS };
    // SAFETY: `SCRATCH` is a per-CPU map, so this value is of this CPU only, and no other run of the program
    // begins on this CPU before this one returns. No other reference to it exists here.
    let is_plain = !H::open(context).is_in_vlan()
        && parse_plain(&H::open(context), unsafe { &mut (*scratch).packet }).is_ok();
    // SAFETY: the value is of this CPU and this run only (per-CPU map), and the reference above is no longer
    // used.
    if !is_plain && !read::<H>(context, unsafe { &mut (*scratch).packet }).is_yes() {
        return H::PASS;
    }
    let scratch = forget_contents(scratch);
    let hook = &mut H::open(context);
    // SAFETY: the value is of this CPU and this run only (per-CPU map), and the references above are no
    // longer used.
    let Scratch { packet, decision, clock } = unsafe { &mut *scratch };
    if packet.destination_mac != link.mac || packet.is_cut() {
        return H::PASS;
    }
    decision.now = clock.tick();
    let (is_reply, decided) = decide(hook, packet, decision, link);
    let result = decided.and_then(|()| admit(packet, decision));
    if packet.is_first_fragment != 0 {
        fragment::remember(packet, decision, result.is_ok().into());
    }
    let result = match result {
        Err(Stop::NotOurs) => return H::PASS,
        Err(Stop::Because(reason)) => Err(reason),
        Ok(()) if rewrite::apply::<H>(context, packet, decision).is_none() => Err(Reason::Failed),
        Ok(()) => Ok(()),
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
            if notice::is_due(reason, packet) {
                notice::give::<H>(context, packet, decision, link.ifindex, reason as u32);
            }
            if reason.verdict() == Verdict::Drop { H::DROP } else { H::PASS }
        }
    }
}

/// Parses a packet that is not plain. Not inlined, for two reasons: it has a stack frame of its own, and the
/// verifier continues on one path behind it, whatever kind of packet it was.
#[inline(never)]
fn read<H: Hook>(context: *mut c_void, packet: &mut Packet) -> Done {
    let mut hook = H::open(context);
    if hook.is_in_vlan() {
        return Done::No;
    }
    for _ in 0..2 {
        match parse(&hook, packet) {
            Ok(_) => return Done::Yes,
            Err(Unparsed::Truncated) if hook.pull() => {}
            Err(_) => return Done::No,
        }
    }
    Done::No
}

/// Decides where a packet goes. The first value says whether it is a reply.
#[inline(always)]
fn decide<H: Hook>(
    hook: &H,
    packet: &mut Packet,
    decision: &mut Decision,
    link: &LinkSettings,
) -> (bool, Result<(), Stop>) {
    if packet.shape == Shape::LaterFragment as u8 {
        match fragment::find_ports::<H>(hook.context(), packet) {
            Ports::Known => {}
            Ports::Unknown => return (false, Err(Reason::UnknownFragment.into())),
            Ports::Early => return (false, Err(Reason::EarlyFragment.into())),
        }
    }
    match reply::decide(packet, decision, link) {
        Err(Stop::NotOurs) => (false, forward::decide(hook, packet, decision, link)),
        result => (true, result),
    }
}

/// The checks that are the same in both directions, once it is known where the packet goes.
#[inline(always)]
fn admit(packet: &Packet, decision: &Decision) -> Result<(), Stop> {
    if decision.is_nat != 0 {
        if packet.time_to_live <= 1 {
            return Err(Reason::TimeToLive.into());
        }
        if packet.is_v6 != 0 && packet.has_checksum == 0 {
            return Err(Reason::NoChecksum.into());
        }
    }
    if decision.destination_mac.is_unknown() || decision.ifindex == 0 {
        return Err(Reason::NoNeighbour.into());
    }
    Ok(())
}
