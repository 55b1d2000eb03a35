// SPDX-License-Identifier: Apache-2.0
//! Capabilities: those without which no agent starts, and those without which it can do less. Pure.

use super::super::check::CheckId;
use super::super::finding::Finding;
use crate::agent::preconditions::needed_capabilities;
use crate::config::Datapath;
use crate::kernel::Cap;

const AS_ROOT: &str =
    "run llb-agent as root (sudo llb-agent ...), or grant it, as systemd does with AmbientCapabilities=";

pub(super) fn judge(datapath: Datapath, missing: &[Cap]) -> Vec<Finding> {
    let needed = needed_capabilities(datapath);
    let finding = |cap: &Cap| {
        let what = format!("{cap} is missing");
        if needed.contains(cap) {
            let or_less =
                if *cap == Cap::Bpf { "; without eBPF, llb needs fewer rights: --userspace" } else { "" };
            return Some(Finding::error(CheckId::Rights, what, format!("{AS_ROOT}{or_less}")));
        }
        let lost = lost_without(*cap, datapath)?;
        Some(Finding::warning(CheckId::Rights, format!("{what}: {lost}"), AS_ROOT))
    };
    let findings: Vec<Finding> = missing.iter().filter_map(finding).collect();
    if findings.is_empty() {
        let what = match datapath {
            Datapath::Userspace => "the process has all rights that the relay needs",
            _ => "the process has all rights that llb needs",
        };
        return vec![Finding::ok(CheckId::Rights, what)];
    }
    findings
}

/// What llb then does without; `None`: nothing.
fn lost_without(cap: Cap, datapath: Datapath) -> Option<&'static str> {
    let uses_bpf = datapath != Datapath::Userspace;
    match cap {
        Cap::NetRaw => Some("other owners of VIPs are not noticed, and neighbours learn of a moved VIP late"),
        Cap::Perfmon if uses_bpf => {
            Some("the eBPF programs can't be loaded, so all is relayed in user space")
        }
        Cap::Bpf if uses_bpf => Some("the relay moves all bytes in user space"),
        // The check of the bpffs reports this, if it matters.
        Cap::SysAdmin | Cap::Bpf | Cap::Perfmon | Cap::NetAdmin | Cap::NetBindService => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Level;
    use super::*;

    fn levels(datapath: Datapath, missing: &[Cap]) -> Vec<Level> {
        judge(datapath, missing).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_missing_right_is_an_error_only_if_nothing_starts_without_it() {
        use Level::{Error, Ok, Warning};
        let (auto, userspace, sockmap) = (Datapath::Auto, Datapath::Userspace, Datapath::Sockmap);
        assert_eq!(levels(auto, &[]), [Ok]);
        assert_eq!(levels(auto, &[Cap::SysAdmin]), [Ok]);
        assert_eq!(levels(auto, &[Cap::NetAdmin, Cap::NetBindService, Cap::Bpf]), [Error, Error, Error]);
        assert_eq!(levels(auto, &[Cap::NetRaw, Cap::Perfmon]), [Warning, Warning]);
        assert_eq!(levels(userspace, &[Cap::Bpf, Cap::Perfmon]), [Ok]);
        assert_eq!(levels(userspace, &[Cap::NetRaw, Cap::NetAdmin]), [Warning, Error]);
        assert_eq!(levels(sockmap, &[Cap::Bpf, Cap::Perfmon]), [Warning, Warning]);
    }

    #[test]
    fn who_lacks_the_right_for_ebpf_is_offered_the_way_without() {
        let action = |cap| judge(Datapath::Auto, &[cap])[0].action.clone().unwrap();
        assert!(action(Cap::Bpf).contains("--userspace"));
        assert!(!action(Cap::NetAdmin).contains("--userspace"));
    }
}
