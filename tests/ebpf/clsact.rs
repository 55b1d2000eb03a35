// SPDX-License-Identifier: Apache-2.0
//! The program at TC as a filter of clsact, as on kernels without tcx: it stays, it is replaced, it goes, and all of
//! this leaves qdiscs and filters of others alone.

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::tc::{self, NlOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttach, TcAttachType};
use llb_agent::config::{PacketConfig, TcAttachment};
use llb_agent::dataplane::packet::{LinkLocks, PacketError, detach};
use llb_common::counters::LINK_COUNTERS_MAP;
use llb_common::programs::TC_INGRESS_PROGRAM;
use llb_tests::Host;
use llb_tests::wait::wait_for;

use crate::link::{
    LIMIT, Open, PACKETS, assert_grown, counters, exchange, inside, open_with, programs_at, two_hosts,
};
use crate::{PrivateBpffs, object};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_filter_outlives_the_agent_and_is_replaced_beside_a_foreign_one() {
    let (lab, bpffs) = (two_hosts().unwrap(), PrivateBpffs::mount().unwrap());
    let host = lab.balancer();
    let foreign = Foreign::attach(host);
    let observer = attach(host, &bpffs, TcAttachment::Clsact).unwrap();
    let (before, seen) = (counters(&observer), foreign.packets());
    exchange(&lab).unwrap();
    let after = counters(&observer);
    assert_grown(before, after, PACKETS);
    let first = own_filters(host);
    assert!(first.len() == 1 && programs_at(host).is_empty(), "{first:?}");

    // Dropped without detaching, as when the agent is killed.
    drop(observer);
    assert_eq!(own_filters(host), first);
    exchange(&lab).unwrap();

    let observer = attach(host, &bpffs, TcAttachment::Clsact).unwrap();
    assert_grown(after, counters(&observer), PACKETS);
    let second = own_filters(host);
    assert!(second.len() == 1 && second != first, "replaced, not added: {first:?} -> {second:?}");
    exchange(&lab).unwrap();
    assert_grown(after, counters(&observer), 2 * PACKETS);
    assert!(foreign.packets() >= seen + 3 * PACKETS, "the foreign filter runs behind llb's");

    drop(observer);
    assert_eq!(inside(host, || detach(&bpffs.bpf_dir())).unwrap(), [Host::LINK]);
    assert!(own_filters(host).is_empty() && !bpffs.bpf_dir().exists());
    let seen = foreign.packets();
    exchange(&lab).unwrap();
    assert!(foreign.packets() >= seen + PACKETS, "the foreign filter and its qdisc stay");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_qdisc_that_llb_made_goes_with_the_filter_unless_another_one_is_there() {
    let (lab, bpffs) = (two_hosts().unwrap(), PrivateBpffs::mount().unwrap());
    let host = lab.balancer();
    drop(attach(host, &bpffs, TcAttachment::Clsact).unwrap());
    // The next agent finds the qdisc, and it is still llb's.
    drop(attach(host, &bpffs, TcAttachment::Clsact).unwrap());
    assert!(has_clsact(host));
    inside(host, || detach(&bpffs.bpf_dir())).unwrap();
    assert!(!has_clsact(host));

    drop(attach(host, &bpffs, TcAttachment::Clsact).unwrap());
    let foreign = Foreign::attach(host);
    inside(host, || detach(&bpffs.bpf_dir())).unwrap();
    let seen = foreign.packets();
    exchange(&lab).unwrap();
    assert!(own_filters(host).is_empty() && foreign.packets() >= seen + PACKETS);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_program_moves_between_tcx_and_clsact() {
    let (lab, bpffs) = (two_hosts().unwrap(), PrivateBpffs::mount().unwrap());
    let host = lab.balancer();
    drop(attach(host, &bpffs, TcAttachment::Auto).unwrap());
    assert!(programs_at(host).len() == 1 && own_filters(host).is_empty());
    drop(attach(host, &bpffs, TcAttachment::Clsact).unwrap());
    wait_for(LIMIT, "the program at tcx to go", || programs_at(host).is_empty()).unwrap();
    assert_eq!(own_filters(host).len(), 1);
    let observer = attach(host, &bpffs, TcAttachment::Auto).unwrap();
    assert!(programs_at(host).len() == 1 && own_filters(host).is_empty() && !has_clsact(host));
    let before = counters(&observer);
    exchange(&lab).unwrap();
    assert_grown(before, counters(&observer), PACKETS);
}

fn attach(host: &Host, bpffs: &PrivateBpffs, tc_attach: TcAttachment) -> Result<Open, PacketError> {
    let config = PacketConfig { tc_attach, ..PacketConfig::default() };
    open_with(host, &[Host::LINK], &bpffs.bpf_dir(), LinkLocks::new(), config)
}

/// The lines of `tc` about filters of llb.
fn own_filters(host: &Host) -> Vec<String> {
    let shown = host.output(&["tc", "filter", "show", "dev", Host::LINK, "ingress"]).unwrap();
    let own = |line: &&str| line.contains("pref 1 ") && line.contains(" handle 0x6c6c");
    shown.lines().filter(own).map(str::to_owned).collect()
}

fn has_clsact(host: &Host) -> bool {
    host.output(&["tc", "qdisc", "show", "dev", Host::LINK]).unwrap().contains("clsact")
}

/// A filter of another program, which counts frames and passes them on.
struct Foreign {
    ebpf: Ebpf,
}

impl Foreign {
    /// Makes the qdisc too, if there is none.
    fn attach(host: &Host) -> Self {
        let mut ebpf = Ebpf::load(&object().unwrap()).unwrap();
        inside(host, || {
            let _ = tc::qdisc_add_clsact(c"eth0");
            let program: &mut SchedClassifier =
                ebpf.program_mut(TC_INGRESS_PROGRAM).unwrap().try_into().unwrap();
            program.load().unwrap();
            let options = NlOptions { priority: 7, handle: TcHandle::new(0, 1), classid: None };
            program
                .attach(c"eth0", TcAttach::Netlink { parent: TcAttachType::Ingress.into(), options })
                .unwrap();
        });
        Self { ebpf }
    }

    fn packets(&self) -> u64 {
        let map: PerCpuArray<&MapData, [u64; 2]> =
            self.ebpf.map(LINK_COUNTERS_MAP).unwrap().try_into().unwrap();
        map.get(&0, 0).unwrap().iter().map(|[packets, _]| packets).sum()
    }
}
