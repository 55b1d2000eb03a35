// SPDX-License-Identifier: Apache-2.0
//! The program at TC ingress as a filter of the clsact qdisc, for kernels without tcx. As a pinned tcx link, the
//! filter outlives the agent. Its priority and handle take the place of a pin: the next agent finds it by them,
//! and replaces its program at once. Qdiscs and filters of others stay.
//!
//! Two empty folders beside the pins say what is llb's: the filter, and the qdisc if llb made it. A qdisc that llb
//! made is removed with the filter if it has no other one.

use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcError, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttach, TcAttachType};

use super::error::PacketError;
use crate::config::TcAttachment;
use crate::error_chain::ErrorChain;
use crate::kernel::{Ability, Reason};
use crate::netlink::{Filter, FilterHook, filters, remove_clsact, remove_filter};

/// The first one, so that it also counts what other filters drop. Filters with the same priority run in the reverse
/// order of their making.
const PRIORITY: u16 = 1;

/// The first half of the handles of all filters of llb. The second half belongs to the folder of all pins, so agents
/// with different ones have filters of their own.
const HANDLES: u32 = 0x6c6c_0000;

/// Says that the link has llb's filter.
const FILTER_MARK: &str = "clsact_filter";

/// Says that llb made the link's qdisc.
const QDISC_MARK: &str = "clsact_qdisc";

/// All marks.
pub(super) const MARKS: [&str; 2] = [FILTER_MARK, QDISC_MARK];

/// Whether the program at TC becomes a filter of clsact. Otherwise it gets a tcx link.
pub(super) fn is_chosen(wanted: TcAttachment, tcx: &Ability) -> bool {
    match wanted {
        TcAttachment::Clsact => true,
        TcAttachment::Auto => *tcx == Ability::No(Reason::NotInKernel),
    }
}

/// Puts `program` at the link's ingress hook, in the place of a predecessor's filter.
///
/// # Errors
/// The kernel refuses. A filter that was there before still is; if there was none, nothing is left of this.
pub(super) fn attach(program: &mut SchedClassifier, ifindex: u32, folder: &Path) -> Result<(), ProgramError> {
    let own = filter_of(folder)?;
    let (parent, handle) = (TcHandle::from(TcAttachType::Ingress), TcHandle::from(own.handle));
    let id = if filters(ifindex, FilterHook::Ingress)?.contains(&own) {
        make_mark(&folder.join(FILTER_MARK))?;
        program.attach_to_link(SchedClassifierLink::attached(ifindex, parent, PRIORITY, handle, None)?)?
    } else {
        let options = NlOptions { priority: PRIORITY, handle, classid: None };
        let made = make_qdisc(ifindex, folder)
            .and_then(|()| program.attach(ifindex, TcAttach::Netlink { parent, options }));
        made.inspect_err(|_| {
            if let Err(error) = forget(ifindex, folder) {
                let (link, error) = (folder.display(), ErrorChain(&error));
                tracing::warn!(%link, %error, "the kernel refuses the filter; what was made for it stays");
            }
        })?
    };
    // Dropping it would remove the filter, which outlives the agent.
    let _stays = ManuallyDrop::new(program.take_link(id)?);
    Ok(())
}

/// Provides the qdisc for a filter that is not there yet, and makes the marks.
fn make_qdisc(ifindex: u32, folder: &Path) -> Result<(), ProgramError> {
    let qdisc = folder.join(QDISC_MARK);
    // A link that was made anew has lost llb's qdisc. If there is one, it is of others.
    remove_mark(&qdisc)?;
    make_mark(&folder.join(FILTER_MARK))?;
    match tc::qdisc_add_clsact(ifindex) {
        Ok(()) => Ok(make_mark(&qdisc)?),
        Err(error) if is_there_already(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the link has a filter of llb, whichever folder it belongs to. What cannot be asked is not there.
pub(super) fn has_filter(ifindex: u32) -> bool {
    let found = filters(ifindex, FilterHook::Ingress).unwrap_or_default();
    found.iter().any(|filter| filter.priority == PRIORITY && filter.handle & 0xffff_0000 == HANDLES)
}

/// The filter of the agents that have the folder of all pins in which `folder` is, two levels below. Its number stays
/// the same wherever it is mounted.
fn filter_of(folder: &Path) -> io::Result<Filter> {
    let all = folder.ancestors().nth(2).unwrap_or(folder);
    let metadata = fs::metadata(all)?;
    let number = metadata.ino() ^ metadata.dev().rotate_left(8);
    Ok(Filter { priority: PRIORITY, handle: HANDLES | (number as u32 & 0xffff) })
}

/// Removes the filter that `folder` is marked with, and the qdisc if llb made it and it has no other filter.
/// `ifindex`: `None` if the link is gone.
///
/// # Errors
/// The kernel refuses.
pub(super) fn detach(ifindex: Option<u32>, folder: &Path) -> Result<(), PacketError> {
    let filter = folder.join(FILTER_MARK);
    let failed = |error| PacketError::pin("remove the filter of", &filter, error);
    if let Some(ifindex) = ifindex.filter(|_| filter.exists()) {
        let own = filter_of(folder).map_err(failed)?;
        // A link that was made anew has lost llb's filter and qdisc. If it has a qdisc, that is of others.
        if filters(ifindex, FilterHook::Ingress).map_err(failed)?.contains(&own) {
            remove_filter(ifindex, FilterHook::Ingress, own).map_err(failed)?;
            return forget(ifindex, folder).map_err(failed);
        }
    }
    remove_marks(folder).map_err(failed)
}

/// Removes the qdisc if llb made it and it has no filter, and the marks.
fn forget(ifindex: u32, folder: &Path) -> io::Result<()> {
    if folder.join(QDISC_MARK).exists() && is_unused(ifindex)? {
        remove_clsact(ifindex)?;
    }
    remove_marks(folder)
}

fn remove_marks(folder: &Path) -> io::Result<()> {
    MARKS.iter().try_for_each(|mark| remove_mark(&folder.join(mark)))
}

fn is_unused(ifindex: u32) -> io::Result<bool> {
    Ok(filters(ifindex, FilterHook::Ingress)?.is_empty() && filters(ifindex, FilterHook::Egress)?.is_empty())
}

fn make_mark(mark: &Path) -> io::Result<()> {
    fs::create_dir(mark)
        .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

fn remove_mark(mark: &Path) -> io::Result<()> {
    fs::remove_dir(mark)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn is_there_already(error: &TcError) -> bool {
    matches!(error, TcError::NetlinkError(error) if error.raw_os_error() == Some(libc::EEXIST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_without_tcx_gets_a_filter() {
        let chosen = |tcx| is_chosen(TcAttachment::Auto, &tcx);
        assert!(chosen(Ability::No(Reason::NotInKernel)));
        // With tcx the kernel's own error then says what is wrong.
        assert!(!chosen(Ability::Yes) && !chosen(Ability::No(Reason::NotPermitted)));
        assert!(is_chosen(TcAttachment::Clsact, &Ability::Yes));
    }

    #[test]
    fn the_marks_of_a_link_without_the_filter_are_removed() {
        const LOOPBACK: u32 = 1;
        for ifindex in [Some(LOOPBACK), None] {
            let all = tempfile::tempdir().unwrap();
            let folder = all.path().join("v1").join("lo");
            fs::create_dir_all(&folder).unwrap();
            MARKS.iter().for_each(|mark| make_mark(&folder.join(mark)).unwrap());
            detach(ifindex, &folder).unwrap();
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        }
    }

    #[test]
    fn each_folder_of_pins_has_a_filter_of_its_own_in_every_layout() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let of = |folder: &tempfile::TempDir, layout: &str| {
            filter_of(&folder.path().join(layout).join("eth0")).unwrap()
        };
        assert_eq!(of(&folders[0], "v1"), of(&folders[0], "v2"));
        assert_ne!(of(&folders[0], "v1"), of(&folders[1], "v1"));
    }
}
