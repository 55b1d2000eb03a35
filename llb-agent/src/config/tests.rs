// SPDX-License-Identifier: Apache-2.0
//! From command lines to configurations, and to errors that name the flag.

use super::{Cli, Config, Invocation, RelayConfig, SourceConfig};
use crate::error_chain::ErrorChain;
use crate::model::{Announce, VIP_LINK};

fn parse(args: &[&str]) -> Result<Config, String> {
    match Cli::of(&[&["llb-agent"], args].concat()).map_err(|error| ErrorChain(&error).to_string())? {
        Invocation::Serve(configured) => Ok(configured.config),
        Invocation::Supervise { arguments } => Err(format!("supervise {arguments:?}")),
        _ => Err("a subcommand".to_owned()),
    }
}

#[test]
fn the_first_command_of_the_readme_works() {
    let config = parse(&["--linkdevice", "eth0"]).unwrap();
    assert_eq!(config.links, ["eth0"]);
    assert!(config.policy.default_class);
    assert_eq!(config.relay, RelayConfig::default());
    let SourceConfig::Kubernetes { kubeconfig: None, context: None, lease, config_map: None } = config.source
    else {
        panic!()
    };
    assert_eq!(lease.unwrap().to_string(), "kube-system/llb.dev-llb");
}

#[test]
fn agents_of_one_class_and_one_list_of_namespaces_are_a_group() {
    for (flags, expected) in [
        (&["--class", "example.com/edge"][..], Some("kube-system/example.com-edge")),
        (&["--namespace", "shop", "--namespace", "crm"], Some("crm/llb.dev-llb")),
        (&["--lease", "llb/edge"], Some("llb/edge")),
        (&["--lease", "off"], None),
    ] {
        let config = parse(&[&["--linkdevice", "eth0"], flags].concat()).unwrap();
        let SourceConfig::Kubernetes { lease, .. } = config.source else { panic!() };
        assert_eq!(lease.map(|lease| lease.to_string()).as_deref(), expected, "{flags:?}");
    }
}

#[test]
fn detach_needs_no_link() {
    assert_eq!(parse(&["detach"]).unwrap_err(), "a subcommand");
}

const POOL: [&str; 4] = ["--linkdevice", "eth0", "--pool", "192.0.2.0/28"];
const EIGHT: [&str; 8] =
    ["--peer=1", "--peer=2", "--peer=3", "--peer=4", "--peer=5", "--peer=6", "--peer=7", "--peer=8"];

#[test]
fn a_box_of_a_group_knows_all_members() {
    let flags = ["--group", "edge", "--member", "box-a", "--peer", "box-c", "--peer", "box-b"];
    let group = parse(&[&POOL[..], &flags].concat()).unwrap().group.unwrap();
    assert_eq!(group.members, ["box-a", "box-b", "box-c"].map(str::to_owned).into());
    assert_eq!((group.member.as_str(), group.group.as_str(), group.first_router_id), ("box-a", "edge", 100));
    assert_eq!(group.advert.as_millis(), 50);
    assert_eq!(parse(&POOL).unwrap().group, None, "alone without --group");
    let pools_of_the_cluster = ["--linkdevice", "eth0", "--config-map", "llb/pools", "--group", "edge"];
    assert!(parse(&pools_of_the_cluster).unwrap().group.is_some());
}

#[test]
fn routed_vips_need_pools_and_no_keepalived() {
    let config = parse(&[&POOL[..], &["--announce", "routed", "--group", "edge", "--member", "a"]].concat());
    let config = config.unwrap();
    assert_eq!((config.policy.announce, config.group), (Announce::Routed, None));
    assert_eq!(config.links, ["eth0"]);
    let relayed = parse(&[&POOL[..], &["--userspace"]].concat()).unwrap();
    assert!(!relayed.policy.has_packet_plane && parse(&POOL).unwrap().policy.has_packet_plane);
    let alone = parse(&["--linkdevice", "eth0", "--announce", "routed"]).unwrap_err();
    assert!(alone.starts_with("--announce: routed needs a --pool or a --config-map"), "{alone}");
    let name = parse(&["--linkdevice", VIP_LINK]).unwrap_err();
    assert!(name.starts_with("--linkdevice: llb0 is the link of routed VIPs; name the link"), "{name}");
}

#[test]
fn a_supervised_agent_gets_all_flags() {
    let shown = parse(&["supervise", "--linkdevice", "eth0", "--userspace"]).unwrap_err();
    assert_eq!(shown, r#"supervise ["--linkdevice", "eth0", "--userspace"]"#);
    assert_eq!(parse(&["supervise"]).unwrap_err(), "supervise []");
}

#[test]
fn the_admin_endpoint_can_be_off_over_tcp_and_on_at_a_path() {
    let admin = |flags: &[&str]| parse(&[&["--linkdevice", "eth0"], flags].concat()).unwrap();
    let config = admin(&["--admin", "off", "--admin-socket", "/run/x.sock", "--admin-group", "adm"]);
    let socket = config.admin.socket.unwrap();
    assert_eq!((config.admin.address, config.policy.own_ports.admin), (None, None));
    assert_eq!((socket.path.to_str(), socket.group.as_deref()), (Some("/run/x.sock"), Some("adm")));
    let config = admin(&[]);
    assert_eq!(config.admin.address.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:9660"));
    assert_eq!(admin(&["--admin-socket", "off"]).admin.socket, None);
}

#[test]
fn wrong_flags_are_refused_by_name() {
    for (args, expected) in [
        (&[][..], "--linkdevice"),
        (&["--linkdevice", "a/b"], "1 to 15 characters"),
        (&["--linkdevice", "eth0", "--linkdevice", "eth0"], "given twice"),
        (
            &["--linkdevice", "eth0", "--pool", "192.0.2.0/33"],
            "\"192.0.2.0/33\" is not a range of addresses: \"33\" is not a prefix",
        ),
        (&["--linkdevice", "eth0", "--pool", "192.0.2.0/28,192.0.2.3"], "overlap"),
        (&["--linkdevice", "eth0", "--pool", "a=192.0.2.1", "--pool", "a=192.0.2.2"], "given twice"),
        (
            &["--linkdevice", "eth0", "--pool", "192.0.2.9-192.0.2.1"],
            "'192.0.2.9-192.0.2.1' for '--pool <POOL>'",
        ),
        (&["--linkdevice", "eth0", "--pool", "192.0.2.0/28", "--pool", "192.0.2.8"], "overlap"),
        (&["--linkdevice", "eth0", "--node-selector", "a=b=c"], "'a=b=c' for '--node-selector <SELECTOR>'"),
        (&["--linkdevice", "eth0", "--drain-timeout", "1y"], "--drain-timeout"),
        (&["--linkdevice", "eth0", "--manifests", "x", "--kubeconfig", "y"], "cannot be used with"),
        (&["--linkdevice", "eth0", "--admin", "9660"], "give ADDRESS:PORT, or off"),
        (&["--linkdevice", "eth0", "--admin-socket", "x.sock"], "begins with /"),
        (&["--linkdevice", "eth0", "--max-connections", "0"], "--max-connections"),
        (&["--linkdevice", "eth0", "--workers", "0"], "give a whole number, 1 or more"),
        (&["--linkdevice", "eth0", "--namespace-share", "0"], "from 1 to 100"),
        (&["--linkdevice", "eth0", "--namespace-share", "101"], "from 1 to 100"),
        (&["--linkdevice", "eth0", "--max-flows", "0"], "give a whole number, 1 or more"),
        (&["--linkdevice", "eth0", "--max-flows", "9999999999"], "the number is too large"),
        (&["--linkdevice", "eth0", "--foreign-annotations", "yes"], "--foreign-annotations"),
        (&["--linkdevice", "eth0", "--lease", "llb"], "give NAMESPACE/NAME"),
        (&["--linkdevice", "eth0", "--config-map", "pools"], "give NAMESPACE/NAME"),
        (&["--linkdevice", "eth0", "--connect-timeout", "0"], "more than 0"),
        (&["--linkdevice", "eth0", "--health-interval", "500ms"], "1s to 5m"),
        (&["--linkdevice", "eth0", "--health-timeout", "2m"], "100ms to 1m"),
        (&["--linkdevice", "eth0", "--udp-idle-timeout", "0ms"], "more than 0"),
    ] {
        let error = parse(args).unwrap_err();
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn wrong_flags_of_a_group_are_refused_by_name() {
    for (args, expected) in [
        (&["--linkdevice", "eth0", "--group", "a_b"][..], "letters, digits, dots and dashes"),
        (&["--linkdevice", "eth0", "--vrrp-advert", "5ms"], "give 10ms to 1s"),
        (&["--linkdevice", "eth0", "--vrrp-advert", "25ms"], "in steps of 10ms"),
        (&["--linkdevice", "eth0", "--vrrp-id", "241"], "--vrrp-id"),
        (&["--linkdevice", "eth0", "--peer", "b"], "name that with --group"),
        (&["--linkdevice", "eth0", "--member", "b"], "name that with --group"),
        (&["--linkdevice", "eth0", "--group", "g"], "a group needs a --pool or a --config-map"),
        (
            &[&POOL[..], &["--group", "g", "--admin", "off", "--admin-socket", "off"]].concat(),
            "--group: a group needs an admin",
        ),
        (
            &[&POOL[..], &["--group", "g", "--state-dir", "/var/lib/my llb"]].concat(),
            "--state-dir: \"/var/lib/my llb\" has ' '",
        ),
        (
            &[&POOL[..], &["--group", "g", "--admin-socket", "/run/a!.sock"]].concat(),
            "has '!', which the configuration",
        ),
        (&[&POOL[..], &["--group", "g", "--linkdevice", "a#1"]].concat(), "--linkdevice: \"a#1\" has '#'"),
        (&[&POOL[..], &["--group", "g", "--address-tag", "file"]].concat(), "--address-tag auto or kernel"),
        (&[&POOL[..], &["--group", "g", "--member", "a", "--peer", "a"]].concat(), "the name of this box"),
        (&[&POOL[..], &["--group", "g", "--member", "a", "--peer", "b", "--peer", "b"]].concat(), "twice"),
        (&[&POOL[..], &["--group", "g"], &EIGHT].concat(), "at most 8 boxes"),
    ] {
        let error = parse(args).unwrap_err();
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}
