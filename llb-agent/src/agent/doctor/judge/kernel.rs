// SPDX-License-Identifier: Apache-2.0
//! What the kernel can do, and what each lack costs. Pure.

use super::super::check::CheckId;
use super::super::facts::{BpfDir, Machine};
use super::super::finding::Finding;
use crate::config::{Config, Datapath};
use crate::kernel::{Ability, BPFFS, Cap, KernelAbilities, Reason, Release};

/// The first kernel that has all that the packet plane needs, and the first one whose XDP takes programs for frames in
/// several buffers, such as those of llb.
const PACKETS_SINCE: Release = Release { major: 5, minor: 15 };
const XDP_SINCE: Release = Release { major: 5, minor: 18 };

const RELAY: &str = "or start llb with --userspace, which needs no eBPF";

pub(super) fn judge(config: &Config, machine: &Machine) -> Vec<Finding> {
    let KernelAbilities { release, bpf, btf, xdp, tcx, sockmap, ifa_proto, bpffs: _ } = &machine.kernel;
    let number = Release::parse(release);
    let datapath = config.datapath;
    let mut findings = vec![of_release(datapath, release, number)];
    if datapath.has_packet_plane() {
        findings.push(needed(datapath, CheckId::KernelBpf, bpf, "eBPF maps can be made"));
        findings.push(needed(datapath, CheckId::KernelBtf, btf, "it takes type information"));
        findings.push(programs(datapath, machine.has_programs));
        findings.push(of_bpffs(config, machine));
    }
    if matches!(datapath, Datapath::Auto | Datapath::Xdp) {
        let is_old = number.is_some_and(|number| number < XDP_SINCE);
        findings.push(match datapath {
            _ if is_old && xdp.is_yes() => Finding::warning(
                CheckId::KernelXdp,
                format!("it has XDP programs, but before {XDP_SINCE} it may refuse those of llb"),
                "nothing, if llb-agent status shows XDP; otherwise use a newer kernel",
            ),
            Datapath::Xdp => needed(datapath, CheckId::KernelXdp, xdp, "it has XDP programs"),
            _ => useful(CheckId::KernelXdp, xdp, "it has XDP programs", "use a newer kernel"),
        });
    }
    if matches!(datapath, Datapath::Auto | Datapath::Tc) {
        let action = "use Linux 6.6 or newer; llb works without it";
        findings.push(match tcx {
            Ability::No(Reason::NotInKernel) => {
                Finding::ok(CheckId::KernelTcx, "it has no tcx; programs are attached by clsact")
            }
            other => useful(CheckId::KernelTcx, other, "programs are attached by tcx links", action),
        });
    }
    if datapath == Datapath::Sockmap {
        let ability = if btf.is_yes() { sockmap } else { btf };
        findings.push(useful(CheckId::KernelSockmap, ability, "it moves bytes from socket to socket", RELAY));
    }
    findings.push(match ifa_proto {
        Ability::Yes => Finding::ok(CheckId::KernelIfaProto, "it marks the addresses that llb adds"),
        Ability::No(reason) => Finding::ok(
            CheckId::KernelIfaProto,
            format!("it does not mark addresses ({reason}); llb lists them in --state-dir"),
        ),
    });
    findings
}

fn of_release(datapath: Datapath, release: &str, number: Option<Release>) -> Finding {
    let what = format!("Linux {release}");
    match number {
        Some(number) if number < PACKETS_SINCE && datapath.has_packet_plane() => Finding::warning(
            CheckId::Kernel,
            format!("{what}; the packet plane may not load before {PACKETS_SINCE}, and then all is relayed"),
            format!(
                "nothing, if the kernel has what is needed, as some distributions have; otherwise use a newer one, {RELAY}"
            ),
        ),
        _ => Finding::ok(CheckId::Kernel, what),
    }
}

/// With `auto` the relay serves in place of the packet plane.
fn needed(datapath: Datapath, check: CheckId, ability: &Ability, is_there: &str) -> Finding {
    let Ability::No(reason) = ability else { return Finding::ok(check, is_there) };
    if *reason == Reason::NotPermitted {
        return Finding::skipped(check, "not known: the process may not ask", "run doctor as root");
    }
    let what = format!("missing: {reason}");
    let action = format!("use a newer kernel, {RELAY}");
    if datapath == Datapath::Auto {
        Finding::warning(check, what, action)
    } else {
        Finding::error(check, what, action)
    }
}

fn useful(check: CheckId, ability: &Ability, is_there: &str, action: &str) -> Finding {
    match ability {
        Ability::Yes => Finding::ok(check, is_there),
        Ability::No(Reason::NotPermitted) => {
            Finding::skipped(check, "not known: the process may not ask", "run doctor as root")
        }
        Ability::No(reason) => Finding::warning(check, format!("missing: {reason}"), action),
    }
}

fn programs(datapath: Datapath, has_programs: bool) -> Finding {
    if has_programs {
        return Finding::ok(CheckId::Programs, "this llb-agent contains the packet programs");
    }
    let what = "this llb-agent was built without the packet programs";
    let action = format!("build it after `cargo xtask build-ebpf`, {RELAY}");
    match datapath {
        Datapath::Auto => Finding::warning(CheckId::Programs, what, action),
        _ => Finding::error(CheckId::Programs, what, action),
    }
}

fn of_bpffs(config: &Config, machine: &Machine) -> Finding {
    let folder = config.bpf_dir.display();
    let (what, action) = match machine.bpf_dir {
        BpfDir::OnBpffs => return Finding::ok(CheckId::Bpffs, format!("--bpf-dir {folder} is on a bpffs")),
        BpfDir::NotWritable => {
            let what = format!("--bpf-dir {folder} is on a bpffs where this process may not write");
            return Finding::skipped(
                CheckId::Bpffs,
                what,
                "run doctor as root, or as a user who may write there",
            );
        }
        BpfDir::NotMounted if !machine.missing.contains(&Cap::SysAdmin) => {
            return Finding::ok(CheckId::Bpffs, format!("no bpffs is mounted at {BPFFS}; llb mounts it"));
        }
        BpfDir::NotMounted => (
            format!("no bpffs is mounted at {BPFFS}, and the process may not mount it"),
            format!("mount it as root: mount -t bpf bpf {BPFFS}"),
        ),
        BpfDir::Elsewhere => (
            format!("--bpf-dir {folder} is on no bpffs"),
            format!("name a folder below {BPFFS}, or mount a bpffs there: mount -t bpf bpf FOLDER"),
        ),
    };
    match config.datapath {
        Datapath::Auto => Finding::warning(CheckId::Bpffs, what, action),
        _ => Finding::error(CheckId::Bpffs, what, action),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Level;
    use super::super::super::sample::{config, machine};
    use super::*;

    /// The findings that are not ok.
    fn found(flags: &[&str], machine: &Machine) -> Vec<(CheckId, Level)> {
        let findings = judge(&config(flags), machine).into_iter();
        findings.filter(|one| one.level != Level::Ok).map(|one| (one.check, one.level)).collect()
    }

    #[test]
    fn a_whole_kernel_has_nothing_to_say() {
        for flags in [&[][..], &["--userspace"], &["--datapath", "xdp"], &["--datapath", "sockmap"]] {
            assert_eq!(found(flags, &machine()), []);
        }
    }

    #[test]
    fn a_lack_is_an_error_if_the_flag_insists_on_it() {
        type Change = fn(&mut Machine);
        let lack = |change: Change| {
            let mut machine = machine();
            change(&mut machine);
            ["auto", "xdp", "tc", "userspace"].map(|datapath| found(&["--datapath", datapath], &machine))
        };
        let one = |check, level| vec![(check, level)];
        let (warning, error) = (Level::Warning, Level::Error);
        let cases: [(CheckId, Change); 4] = [
            (CheckId::KernelBpf, |machine| machine.kernel.bpf = Ability::No(Reason::NotInKernel)),
            (CheckId::KernelBtf, |machine| machine.kernel.btf = Ability::No(Reason::NotInKernel)),
            (CheckId::Programs, |machine| machine.has_programs = false),
            (CheckId::Bpffs, |machine| machine.bpf_dir = BpfDir::Elsewhere),
        ];
        for (check, change) in cases {
            let expected = [one(check, warning), one(check, error), one(check, error), vec![]];
            assert_eq!(lack(change), expected, "{check}");
        }
        let xdp = lack(|machine| machine.kernel.xdp = Ability::No(Reason::NotInKernel));
        assert_eq!(xdp, [one(CheckId::KernelXdp, warning), one(CheckId::KernelXdp, error), vec![], vec![]]);
    }

    #[test]
    fn old_kernels_have_less() {
        let mut old = machine();
        old.kernel.release = "5.15.0-91-generic".to_owned();
        for datapath in ["auto", "xdp"] {
            let found = found(&["--datapath", datapath], &old);
            assert_eq!(found, [(CheckId::KernelXdp, Level::Warning)], "distributions add to old kernels");
        }
        old.kernel.release = "5.10.0".to_owned();
        old.kernel.tcx = Ability::No(Reason::NotInKernel);
        old.kernel.ifa_proto = Ability::No(Reason::Since(XDP_SINCE));
        assert_eq!(found(&["--datapath", "tc"], &old), [(CheckId::Kernel, Level::Warning)]);
        assert_eq!(found(&["--userspace"], &old), []);
        old.kernel.sockmap = Ability::No(Reason::NotInKernel);
        assert_eq!(found(&["--datapath", "sockmap"], &old), [(CheckId::KernelSockmap, Level::Warning)]);
    }

    #[test]
    fn what_the_process_may_not_ask_is_not_known() {
        let mut machine = machine();
        machine.kernel.bpf = Ability::No(Reason::NotPermitted);
        machine.kernel.tcx = Ability::No(Reason::NotPermitted);
        let skipped = Level::Skipped;
        assert_eq!(found(&[], &machine), [(CheckId::KernelBpf, skipped), (CheckId::KernelTcx, skipped)]);
    }

    #[test]
    fn a_bpffs_that_the_agent_mounts_itself_is_well() {
        let mut machine = machine();
        machine.bpf_dir = BpfDir::NotMounted;
        assert_eq!(found(&[], &machine), []);
        machine.missing = vec![Cap::SysAdmin];
        assert_eq!(found(&[], &machine), [(CheckId::Bpffs, Level::Warning)]);
        machine.bpf_dir = BpfDir::NotWritable;
        assert_eq!(found(&[], &machine), [(CheckId::Bpffs, Level::Skipped)]);
    }
}
