// SPDX-License-Identifier: Apache-2.0
//! Attaches a program to one hook of a link. It takes the place of a predecessor's program
//! without a gap. Maps are made with the object (`loader.rs`).

use std::fs;
use std::io;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttach, TcAttachType, Xdp, XdpMode};
use llb_common::programs::{TC_INGRESS_PROGRAM, XDP_PROGRAM};
use rustix::io::Errno;

use super::clsact;
use super::error::PacketError;
use super::link_facts::LinkFacts;
use super::pins::PinFolder;
use super::{link_device, xdp_removal};
use crate::config::{self, PacketConfig};
use crate::kernel::{self, system_error};
use crate::model::Hook;

/// The name of a hook's program in the object.
pub(super) const fn program_of(hook: Hook) -> &'static str {
    match hook {
        Hook::Xdp => XDP_PROGRAM,
        Hook::Tc => TC_INGRESS_PROGRAM,
    }
}

/// The name of the pin that keeps the program at the link.
const fn pin_of(hook: Hook) -> &'static str {
    match hook {
        Hook::Xdp => xdp_removal::PIN,
        Hook::Tc => "tc_ingress",
    }
}

/// Loads the program of `hook`. Most of the time of a start goes here.
///
/// # Errors
/// The kernel refuses.
pub(super) fn load(
    ebpf: &mut Ebpf,
    hook: Hook,
    facts: &LinkFacts,
    folder: &PinFolder,
) -> Result<(), PacketError> {
    let (name, pin) = (program_of(hook), folder.pin(pin_of(hook)));
    let failed = |error| PacketError::program(name, &facts.name, &pin, error);
    let program = ebpf.program_mut(name).ok_or(PacketError::NotInObject { name })?;
    match hook {
        Hook::Xdp => <&mut Xdp>::try_from(program).and_then(Xdp::load),
        Hook::Tc => <&mut SchedClassifier>::try_from(program).and_then(SchedClassifier::load),
    }
    .map_err(failed)
}

/// Attaches the loaded program of `hook` to the link.
///
/// # Errors
/// The kernel refuses. What was attached before still is.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    hook: Hook,
    facts: &LinkFacts,
    config: &PacketConfig,
    folder: &PinFolder,
) -> Result<(), PacketError> {
    let mode = config.xdp_mode;
    let (name, link, index) = (program_of(hook), facts.name.as_str(), facts.ifindex);
    let pin = folder.pin(pin_of(hook));
    let failed = |error| PacketError::program(name, link, &pin, error);
    let program = ebpf.program_mut(name).ok_or(PacketError::NotInObject { name })?;
    let attached = match hook {
        Hook::Xdp => {
            let program: &mut Xdp = program.try_into().map_err(failed)?;
            match take_over_xdp(program, facts, mode, &pin).map_err(failed)? {
                true => None,
                false => {
                    xdp_removal::take_off(link, folder.path())?;
                    let mode = match mode {
                        config::XdpMode::Native => XdpMode::Driver,
                        config::XdpMode::Generic => XdpMode::Skb,
                    };
                    let id = program.attach(index, mode).map_err(failed)?;
                    let link = program.take_link(id).map_err(failed)?;
                    Some(FdLink::try_from(link).map_err(|error| failed(error.into()))?)
                }
            }
        }
        Hook::Tc if is_clsact(hook, config) => {
            let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
            clsact::attach(program, index, folder.path()).map_err(failed)?;
            None
        }
        Hook::Tc => {
            let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
            match take_over_tc(program, index, &pin).map_err(failed)? {
                true => None,
                false => {
                    remove_stale(&pin)?;
                    // First at the hook, so that it also counts what other programs drop.
                    let place =
                        TcAttach::Tcx { attach_type: TcAttachType::Ingress, order: LinkOrder::first() };
                    let id = program.attach(index, place).map_err(failed)?;
                    let link = program.take_link(id).map_err(failed)?;
                    Some(FdLink::try_from(link).map_err(|error| failed(error.into()))?)
                }
            }
        }
    };
    if let Some(attached) = attached {
        attached.pin(&pin).map_err(|error| PacketError::pin("pin", &pin, error))?;
    }
    Ok(())
}

/// Ends the programs at other places than `hook`. They are a predecessor's, whose work the one at `hook` does now.
///
/// # Errors
/// One can't be removed. Both work then, by the same maps.
pub(super) fn end_others(
    hook: Hook,
    facts: &LinkFacts,
    config: &PacketConfig,
    folder: &PinFolder,
) -> Result<(), PacketError> {
    let is_clsact = is_clsact(hook, config);
    if hook == Hook::Xdp || is_clsact {
        remove_stale(&folder.pin(pin_of(Hook::Tc)))?;
    }
    if !is_clsact {
        clsact::detach(Some(facts.ifindex), folder.path())?;
    }
    if hook == Hook::Xdp { Ok(()) } else { xdp_removal::take_off(&facts.name, folder.path()) }
}

/// Whether the program is a filter of clsact.
fn is_clsact(hook: Hook, config: &PacketConfig) -> bool {
    hook == Hook::Tc && clsact::is_chosen(config.tc_attach, &kernel::tcx())
}

/// Puts `program` in the place of a predecessor's. `false` if this link has none: there is no
/// pin, or its link was removed or renamed.
fn take_over_tc(program: &mut SchedClassifier, index: u32, pin: &Path) -> Result<bool, ProgramError> {
    let Some(pinned) = pinned(pin)? else { return Ok(false) };
    let old = SchedClassifierLink::try_from(FdLink::from(pinned))?;
    let new = match program.attach_to_link(old) {
        Ok(new) => new,
        // The kernel detached it when its link device was removed.
        Err(error) if has_errno(&error, Errno::NOLINK) => return Ok(false),
        Err(error) => return Err(error),
    };
    let is_here =
        link_device::device_of("tcx", program.info()?.id()).map_err(ProgramError::IOError)? == Some(index);
    // This handle is dropped. The pin keeps the program attached.
    program.take_link(new)?;
    Ok(is_here)
}

/// As [`take_over_tc`], and `false` if the predecessor's program is in another XDP mode, which
/// can't be changed.
fn take_over_xdp(
    program: &mut Xdp,
    facts: &LinkFacts,
    mode: config::XdpMode,
    pin: &Path,
) -> Result<bool, ProgramError> {
    let Some(pinned) = pinned(pin)? else { return Ok(false) };
    let link = FdLink::from(pinned);
    // The kernel is asked now: a running agent may have put another program there since the facts were read.
    let device = link_device::device_of("xdp", link.info()?.program_id()).map_err(ProgramError::IOError)?;
    if device != Some(facts.ifindex) || facts.xdp.is_none_or(|(_, in_mode)| in_mode != mode) {
        return Ok(false);
    }
    match program.attach_to_link(XdpLink::try_from(link)?) {
        Ok(new) => {
            program.take_link(new)?;
            Ok(true)
        }
        Err(error) if has_errno(&error, Errno::NOLINK) => Ok(false),
        Err(error) => Err(error),
    }
}

fn pinned(pin: &Path) -> Result<Option<PinnedLink>, ProgramError> {
    match PinnedLink::from_pin(pin) {
        Ok(pinned) => Ok(Some(pinned)),
        Err(error) if has_errno(&error, Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn remove_stale(pin: &Path) -> Result<(), PacketError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PacketError::pin("remove", pin, error)),
        _ => Ok(()),
    }
}

pub(super) fn has_errno(error: &(dyn std::error::Error + 'static), errno: Errno) -> bool {
    system_error(error).and_then(Errno::from_io_error) == Some(errno)
}
