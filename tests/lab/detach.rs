// SPDX-License-Identifier: Apache-2.0
//! `llb-agent detach` removes what an agent that has ended left, and nothing else.

use llb_tests::{Host, Manifests, agent, manifests, wait_until};

use crate::plane::Plane;
use crate::setup::LIMIT;
use crate::stage::{FIRST, Flags, HTTP, Stage};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn detach_leaves_a_running_agent_alone() {
    let stage = Stage::new();
    let forwarding = Flags { plane: Plane::Tc, ..FIRST };
    let mut first = stage.serve("first", forwarding);
    for (flags, expected) in [
        (Flags { state_dir: "2", ..forwarding }, "has link eth0; stop it first. Nothing was changed"),
        (Flags { bpf_dir: "2", ..forwarding }, "runs with --state-dir"),
        (forwarding, "runs with --state-dir"),
    ] {
        let said = stage.detach(flags).unwrap_err();
        assert!(said.contains(expected), "{flags:?}: {said}");
        assert!(stage.is_vip_there());
        stage.wait_until_served(&first);
    }
    // Nothing there is its own.
    stage.detach(Flags { state_dir: "2", bpf_dir: "2", ..FIRST }).unwrap();
    assert!(stage.is_vip_there());

    // The programs of a killed agent, beside another agent that serves now.
    first.kill9().unwrap();
    let relaying = Flags { state_dir: "2", bpf_dir: "2", ..FIRST };
    let mut second = stage.serve("second", relaying);
    let said = stage.detach(forwarding).unwrap_err();
    assert!(said.contains(&format!("another llb-agent (pid {},", second.pid())), "{said}");
    assert!(stage.is_vip_there());
    stage.wait_until_served(&second);

    // The programs of two killed agents: each folder has its own, and both need the VIP.
    second.kill9().unwrap();
    let forwarding_too = Flags { plane: Plane::Tc, ..relaying };
    stage.serve("third", forwarding_too).kill9().unwrap();
    let said = stage.detach(forwarding_too).unwrap();
    assert!(said.contains("another --bpf-dir keeps"), "{said}");
    assert!(stage.is_vip_there());
    assert!(!stage.bpf_dir(forwarding_too).exists() && stage.bpf_dir(forwarding).exists());
    stage.detach(forwarding).unwrap();
    assert!(!stage.is_vip_there());
    assert!(!stage.bpf_dir(forwarding).exists());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn detach_takes_nothing_of_others() {
    const LINK: &str = "other0";
    let stage = Stage::new();
    let host = stage.lab.balancer();
    host.ip(&format!(
        "link add {LINK} type veth peer name other1\nlink set other1 up\nlink set {LINK} up\naddr add 198.51.100.9/24 dev {LINK}\naddr add 192.0.2.77/32 dev {}\n",
        Host::LINK
    ))
    .unwrap();
    // Another agent forwards on another link, and another program has a queueing discipline on the same one.
    let other_manifests = Manifests::new(host, "other").unwrap();
    let service = manifests::service("other", &["198.51.100.50".parse().unwrap()], &[HTTP]);
    other_manifests.write("other.yaml", &service).unwrap();
    let other_bpf_dir = host.bpf_directory().join("other");
    let mut command = host.command(agent::binary().unwrap());
    command.args([
        "--linkdevice",
        LINK,
        "--datapath",
        "xdp",
        "--xdp-mode",
        "generic",
        "--admin",
        "127.0.0.1:9661",
    ]);
    command.arg("--manifests").arg(other_manifests.path()).arg("--bpf-dir").arg(&other_bpf_dir);
    command.arg("--state-dir").arg(stage.lab.directory().join("state-other"));
    let mut other = host.spawn(command, "other").unwrap();
    let is_vip_there =
        || anyhow::Ok(host.output(&["ip", "addr", "show", "dev", LINK])?.contains("198.51.100.50/"));
    wait_until(LIMIT, "the VIP of the other agent", || Ok(is_vip_there()?.then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", other.log()));
    host.output(&["tc", "qdisc", "replace", "dev", Host::LINK, "clsact"]).unwrap();
    let qdiscs = || host.output(&["tc", "qdisc", "show", "dev", Host::LINK]).unwrap();
    // With its addresses and the number of its program.
    let other_link = || host.output(&["ip", "addr", "show", "dev", LINK]).unwrap();
    let link_of_other = other_link();
    assert!(
        link_of_other.contains("xdpgeneric") && link_of_other.contains("198.51.100.50/"),
        "{link_of_other}"
    );
    let pins = || std::fs::read_dir(&other_bpf_dir).unwrap().count();
    let pins_of_other = pins();

    let forwarding = Flags { plane: Plane::Tc, ..FIRST };
    stage.serve("first", forwarding).kill9().unwrap();
    stage.detach(forwarding).unwrap();
    assert!(!stage.is_vip_there() && !stage.bpf_dir(forwarding).exists());
    let own = [host.ipv4().into(), host.ipv6().into(), "192.0.2.77".parse().unwrap()];
    for address in own {
        assert!(host.has_address(address).unwrap(), "{address}");
    }
    assert!(qdiscs().contains("clsact"), "{}", qdiscs());
    assert_eq!((other_link(), pins()), (link_of_other, pins_of_other));
    assert_eq!(other.exit_status().unwrap(), None, "{}", other.log());
    assert!(!other.log().contains("but not by llb"), "{}", other.log());
}
