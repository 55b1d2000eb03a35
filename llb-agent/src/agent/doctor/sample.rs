// SPDX-License-Identifier: Apache-2.0
//! Facts of a machine on which everything is well, for the tests of the judgments.

use super::facts::{BpfDir, LinkReport, Links, Machine, StateDir};
use crate::config::{Cli, Config, Invocation};
use crate::dataplane::packet::HookForecast;
use crate::kernel::{Ability, KernelAbilities};
use crate::model::{Facts, Hook, HookChoice, Host, Link, LinkAddress, Mac};
use crate::netlink::LinkDevice;

/// The configuration of these flags, with the link eth0.
pub(super) fn config(flags: &[&str]) -> Config {
    match Cli::of(&[&["llb-agent", "--linkdevice", "eth0"], flags].concat()) {
        Ok(Invocation::Serve(configured)) => configured.config,
        other => panic!("{other:?}"),
    }
}

pub(super) fn machine() -> Machine {
    let yes = || Ability::Yes;
    Machine {
        kernel: KernelAbilities {
            release: "6.12.1".to_owned(),
            bpf: yes(),
            btf: yes(),
            xdp: yes(),
            tcx: yes(),
            sockmap: yes(),
            bpffs: yes(),
            ifa_proto: yes(),
        },
        missing: Vec::new(),
        has_programs: true,
        bpf_dir: BpfDir::OnBpffs,
        memlock: None,
        open_files: None,
        state_dir: StateDir::Usable,
        is_loopback_up: true,
        forwards: true,
        return_path: Vec::new(),
    }
}

/// A card whose driver has XDP.
pub(super) fn link(name: &str) -> LinkReport {
    let device = LinkDevice {
        name: name.to_owned(),
        ifindex: 2,
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: 1500,
        kind: None,
        alias: None,
        below: None,
        master: None,
        xdp: None,
        is_up: true,
        is_running: true,
        is_ethernet: true,
        has_neighbours: true,
    };
    let forecast = HookForecast {
        ifindex: 2,
        hooks: &Hook::ALL,
        choice: HookChoice::Fastest,
        runs_xdp: true,
        runs_large: false,
        hides_vlans: false,
    };
    LinkReport {
        device,
        kernel_name: name.to_owned(),
        driver: Some("virtio_net".to_owned()),
        master: None,
        forecast: Some(forecast),
        lro: Ok(false),
        hardware_gro: Ok(false),
        holder: None,
        has_pins: Some(false),
        rp_filter: 0,
    }
}

pub(super) fn links(reports: Vec<LinkReport>) -> Links {
    Links {
        reports,
        missing: Vec::new(),
        all: vec!["lo".to_owned(), "eth0".to_owned()],
        with_ipv4: 1,
        machine: machine_facts(),
    }
}

/// eth0 with 192.0.2.20/24.
pub(super) fn machine_facts() -> Facts {
    let own = LinkAddress { net: "192.0.2.20/24".parse().unwrap(), ours: false, primary: true };
    let links = vec![Link { name: "eth0".to_owned(), addresses: vec![own] }];
    Facts { links, host: Host::default(), vip_link: None }
}
