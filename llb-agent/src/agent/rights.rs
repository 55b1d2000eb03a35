// SPDX-License-Identifier: Apache-2.0
//! Gives up every right that a serving agent does not need: capabilities, gaining new ones through
//! programs that it starts, and dangerous system calls (`syscall_filter.rs`). Rights belong to
//! threads and pass to threads and programs that are started later, so this runs while the process
//! has only one thread. A failure is a warning: an agent with too many rights still serves.

use std::fmt::Display;

use caps::runtime::procfs_all_supported;
use caps::{CapSet, Capability, CapsHashSet};
use rustix::thread::set_no_new_privs;

use super::syscall_filter;
use crate::config::{Config, Datapath};
use crate::error_chain::ErrorChain;

/// Kept by every agent, if it has them.
const KEPT: [Capability; 5] = [
    // Addresses, neighbours, transparent sockets, programs at links that appear later.
    Capability::CAP_NET_ADMIN,
    // Service ports below 1024.
    Capability::CAP_NET_BIND_SERVICE,
    // Probes and announcements of VIPs.
    Capability::CAP_NET_RAW,
    // Manifests, kubeconfigs and keys that belong to another user than root and are read again
    // later. Root owns most other files that are worth reading, so it adds little for root.
    Capability::CAP_DAC_READ_SEARCH,
    // The relay's pipes. Without it, a user's pipes shrink to two pages each when they have more than
    // fs.pipe-user-pages-soft together: 256 pipes of the relay's size. It lifts limits, and no more.
    Capability::CAP_SYS_RESOURCE,
];

/// Also kept by an agent that uses eBPF: maps and programs are made again for a link that comes
/// back, and when sockmap is tested.
const KEPT_FOR_BPF: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];

/// Gives up the rights. The log says what is left.
pub(super) fn give_up(config: &Config) {
    let kept = kept(config.datapath, &supported());
    let capabilities = match shrink(&kept) {
        Ok(left) => names(&left),
        Err(error) => {
            warn("capabilities that llb does not need", &ErrorChain(&error));
            "unchanged".to_owned()
        }
    };
    // The filter sets it too, but it is worth having without the filter.
    if let Err(error) = set_no_new_privs(true) {
        warn("the right to gain rights by starting a program (no_new_privs)", &error);
    }
    if let Err(error) = syscall_filter::install() {
        warn("system calls that llb does not need (seccomp)", &ErrorChain(&error));
    }
    tracing::info!(capabilities, "gave up the rights that llb does not need");
}

fn kept(datapath: Datapath, supported: &CapsHashSet) -> CapsHashSet {
    let mut kept = CapsHashSet::from(KEPT);
    if datapath != Datapath::Userspace {
        kept.extend(KEPT_FOR_BPF);
        if !KEPT_FOR_BPF.iter().all(|capability| supported.contains(capability)) {
            // Before Linux 5.8 it is the one that allows eBPF.
            kept.insert(Capability::CAP_SYS_ADMIN);
        }
    }
    kept
}

/// The capabilities that this kernel knows; all, if it does not say.
fn supported() -> CapsHashSet {
    procfs_all_supported(None).unwrap_or_else(|_| caps::all())
}

/// Takes all capabilities but those in `kept` out of every set of this thread; returns what it has then.
fn shrink(kept: &CapsHashSet) -> Result<CapsHashSet, caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let left: CapsHashSet = permitted.intersection(kept).copied().collect();
    // Without CAP_SETPCAP the bounding set cannot be changed. With no_new_privs it has no effect on
    // programs that are started: they get no capability that this process lacks.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        let bounding = caps::read(None, CapSet::Bounding)?;
        for &capability in bounding.difference(kept) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    caps::clear(None, CapSet::Inheritable)?;
    Ok(left)
}

/// In a fixed order.
fn names(capabilities: &CapsHashSet) -> String {
    let mut names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

fn warn(what: &str, error: &dyn Display) {
    tracing::warn!(%error, "cannot give up {what}; llb serves with more rights than it needs");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_is_kept_only_by_agents_that_use_it() {
        let kept = |datapath| names(&kept(datapath, &caps::all()));
        let network = "CAP_DAC_READ_SEARCH CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW CAP_SYS_RESOURCE";
        assert_eq!(kept(Datapath::Userspace), network);
        for datapath in [Datapath::Auto, Datapath::Xdp, Datapath::Tc, Datapath::Sockmap] {
            let mut all: Vec<&str> = network.split(' ').chain(["CAP_BPF", "CAP_PERFMON"]).collect();
            all.sort_unstable();
            assert_eq!(kept(datapath), all.join(" "), "{datapath:?}");
        }
    }

    #[test]
    fn a_kernel_without_cap_bpf_needs_sys_admin() {
        let mut old = caps::all();
        old.remove(&Capability::CAP_BPF);
        old.remove(&Capability::CAP_PERFMON);
        assert!(kept(Datapath::Tc, &old).contains(&Capability::CAP_SYS_ADMIN));
        assert!(!kept(Datapath::Userspace, &old).contains(&Capability::CAP_SYS_ADMIN));
    }

    #[test]
    fn threads_that_start_later_have_no_more() {
        let kept = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
        // A thread of its own, as the rights of the other tests' threads stay.
        let left = std::thread::spawn(move || {
            shrink(&kept).unwrap();
            let sets = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient];
            std::thread::spawn(move || sets.map(|set| caps::read(None, set).unwrap())).join().unwrap()
        });
        for set in left.join().unwrap() {
            assert!(set.is_empty() || set == CapsHashSet::from([Capability::CAP_NET_ADMIN]), "{set:?}");
        }
    }

    #[test]
    fn pipes_of_the_relays_size_do_not_shrink() {
        const BYTES: usize = 256 << 10;
        /// More than fs.pipe-user-pages-soft allows an unprivileged user by default.
        const PIPES: usize = 260;
        if !caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_RESOURCE).unwrap() {
            return; // What this process does not have, it cannot keep.
        }
        let sizes = std::thread::spawn(|| {
            shrink(&kept(Datapath::Userspace, &caps::all())).unwrap();
            let pipes: Vec<_> = (0..PIPES).map(|_| rustix::pipe::pipe().unwrap()).collect();
            pipes.iter().map(|(end, _)| rustix::pipe::fcntl_setpipe_size(end, BYTES)).collect::<Vec<_>>()
        });
        assert_eq!(sizes.join().unwrap(), vec![Ok(BYTES); PIPES]);
    }
}
