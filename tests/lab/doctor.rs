// SPDX-License-Identifier: Apache-2.0
//! `llb-agent doctor` finds what is wrong with a machine, a segment and Nodes. Each case breaks one thing. What can't be
//! broken in a lab (cards, old kernels, clocks) has tables beside the judgments (`llb-agent/src/agent/doctor/judge/`).

use std::net::{IpAddr, Ipv4Addr};
use std::process::Output;

use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Agent, Host, Lab, Manifests, Server, agent};
use serde_json::Value;

use crate::setup::NODES;

const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

/// The root user without root's capabilities.
const WITHOUT_RIGHTS: [&str; 4] =
    ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"];

/// A lab with a Service of which both nodes take connections.
struct Clinic {
    /// Ends before its lab.
    servers: Vec<Server>,
    manifests: Manifests,
    lab: Lab,
}

impl Clinic {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let manifests = Manifests::new(lab.balancer(), "manifests").unwrap();
        let nodes = NODES.map(|node| lab.host(node));
        manifests.write("nodes.yaml", &manifests::nodes(&nodes)).unwrap();
        manifests.write("web.yaml", &manifests::service("web", &[lab.vip(0)], &[HTTP])).unwrap();
        let servers = nodes.map(|node| {
            [node.at(HTTP.node_port), node.at_v6(HTTP.node_port)]
                .map(|address| Server::http(node, address, node.name()).unwrap())
        });
        Self { servers: servers.into_iter().flatten().collect(), manifests, lab }
    }

    fn balancer(&self) -> &Host {
        self.lab.balancer()
    }

    /// Sets sysctls of the balancer. A new namespace may have some of them from the machine.
    fn set(&self, settings: &[&str]) {
        self.balancer().output(&[&["sysctl", "-q", "-w"], settings].concat()).unwrap();
    }

    /// Runs doctor for eth0, by `prefix` in front of the program.
    fn run(&self, prefix: &[&str], flags: &[&str]) -> Output {
        let program = agent::binary().unwrap();
        let mut words = prefix.iter().copied().chain([program.to_str().unwrap()]);
        let mut command = self.balancer().command(words.next().unwrap());
        command.args(words).arg("doctor");
        if !flags.contains(&"--linkdevice") {
            command.args(["--linkdevice", Host::LINK]);
        }
        if !flags.contains(&"--kubeconfig") {
            command.arg("--manifests").arg(self.manifests.path());
        }
        if !flags.contains(&"--state-dir") {
            command.arg("--state-dir").arg(self.lab.directory().join("doctor.state"));
        }
        if !flags.contains(&"--bpf-dir") {
            command.arg("--bpf-dir").arg(self.balancer().bpf_directory());
        }
        command.args(flags).output().unwrap()
    }

    fn find(&self, flags: &[&str]) -> Found {
        self.find_by(&[], flags)
    }

    fn find_by(&self, prefix: &[&str], flags: &[&str]) -> Found {
        let output = self.run(prefix, &[flags, &["-o", "json"]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{said}"));
        let has_errors = json["errors"].as_u64() > Some(0);
        assert_eq!(output.status.code(), Some(i32::from(has_errors)), "{json:#}\n{said}");
        Found(json)
    }
}

/// What doctor has found.
struct Found(Value);

impl Found {
    /// Checks that a finding of this check has this level and contains this text.
    #[track_caller]
    fn assert(&self, check: &str, level: &str, text: &str) {
        let mut findings = self.0["findings"].as_array().unwrap().iter();
        let is_it = |finding: &&Value| {
            finding["check"] == check
                && finding["level"] == level
                && (finding["what"].as_str().unwrap().contains(text) || finding["object"] == text)
        };
        let finding =
            findings.find(is_it).unwrap_or_else(|| panic!("no {level} {check} {text}: {:#}", self.0));
        let is_told = |part: &str| finding[part].as_str().is_some_and(|text| !text.is_empty());
        assert_eq!(is_told("do"), level != "ok", "{finding}");
        assert_eq!(is_told("why"), ["warning", "error"].contains(&level), "{finding}");
    }

    /// The checks of this level.
    fn of_level(&self, level: &str) -> Vec<&str> {
        let findings = self.0["findings"].as_array().unwrap().iter();
        let found = findings.filter(|finding| finding["level"] == level);
        found.map(|finding| finding["check"].as_str().unwrap()).collect()
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_machine_that_is_well_gets_no_error_and_no_change() {
    let clinic = Clinic::new();
    clinic.set(&["net.ipv4.ip_forward=0"]);
    let (first, last) = (clinic.lab.vip(0), clinic.lab.vip(9));
    let pool = format!("{first}-{last}");
    for datapath in ["auto", "tc", "userspace"] {
        let found = clinic.find(&["--datapath", datapath, "--pool", &pool]);
        assert_eq!(found.of_level("error"), [""; 0], "{datapath}: {:#}", found.0);
        found.assert("address-conflict", "ok", "no other host has one of the 10 addresses");
        found.assert("node-port", "ok", "default/web");
        // The Service has an IPv4 VIP, so its nodePort is tried by IPv4.
        found.assert("nodes", "ok", "2 addresses of Nodes");
        found.assert("pool-reserved", "ok", "");
        found.assert("ip-forward", "ok", "off");
    }
    let output = clinic.run(&[], &["--pool", &pool]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{text}{:?}", output.stderr);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("\nok       link-carrier      eth0: it is up"), "{text}");
    // Nothing is left behind.
    assert!(!clinic.lab.directory().join("doctor.state").exists());
    assert!(!clinic.balancer().has_address(first).unwrap());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_that_is_missing_dead_or_not_its_own_is_named() {
    let clinic = Clinic::new();
    let host = clinic.balancer();
    clinic.find(&["--linkdevice", "eth9"]).assert("link", "error", "this machine has: ");
    host.ip(
        "link add port0 type veth peer name port1\nlink add br0 type bridge\nlink set port0 master br0\n\
         link set br0 up\n",
    )
    .unwrap();
    let both = ["--linkdevice", "port0", "--linkdevice", "br0"];
    clinic.find(&both).assert("link-carrier", "error", "it is down");
    host.ip("link set port0 up\n").unwrap();
    let found = clinic.find(&both);
    found.assert("link-carrier", "error", "it has no carrier");
    found.assert("link-port", "error", "it is a port of br0 (bridge)");
    found.assert("link-port", "ok", "br0");
    found.assert("link-xdp", "ok", "no XDP: drivers of virtual links have none");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_large_mtu_and_a_veth_are_named_if_xdp_is_forced() {
    let clinic = Clinic::new();
    clinic.find(&["--datapath", "xdp"]).assert("link-mtu", "ok", "MTU 1500");
    clinic.balancer().ip("link set eth0 mtu 9000\n").unwrap();
    let found = clinic.find(&["--datapath", "xdp"]);
    found.assert("link-mtu", "ok", "MTU 9000; the driver has XDP for large frames");
    found.assert("link-xdp", "warning", "may lose what it forwards");
    let found = clinic.find(&["--datapath", "tc"]);
    assert!(!found.0.to_string().contains("link-mtu"), "TC takes all");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn settings_of_the_kernel_that_lose_packets_are_named() {
    let clinic = Clinic::new();
    let host = clinic.balancer();
    clinic.set(&["net.ipv4.ip_forward=0", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=1"]);
    clinic.find(&[]).assert("rp-filter", "ok", "no other link");
    host.ip("link add side0 type veth peer name side1\naddr add 198.51.100.9/24 dev side0\n").unwrap();
    clinic.find(&[]).assert("rp-filter", "warning", "strict, and 2 links");
    clinic.set(&["net.ipv4.conf.all.rp_filter=2"]);
    clinic.find(&[]).assert("rp-filter", "ok", "2, not strict");

    let routes = ["--return-path", "routes"];
    clinic.find(&routes).assert("ip-forward", "warning", "net.ipv4.conf.lo.forwarding");
    clinic.set(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
    clinic.find(&routes).assert("ip-forward", "ok", "on");
    host.ip("link set lo down\n").unwrap();
    clinic.find(&[]).assert("loopback", "error", "lo is down");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn addresses_that_others_have_are_named_with_their_owner() {
    let clinic = Clinic::new();
    let (taken, taken_v6) = (clinic.lab.vip(3), clinic.lab.vip_v6(3));
    clinic
        .lab
        .client()
        .ip(&format!("addr add {taken}/24 dev eth0\naddr add {taken_v6}/64 dev eth0 nodad\n"))
        .unwrap();
    let pools = [
        "--pool",
        &format!("own={}-{}", Ipv4Addr::new(192, 0, 2, 16), clinic.lab.vip(9)),
        "--pool",
        &format!("six={}-{}", clinic.lab.vip_v6(0), clinic.lab.vip_v6(9)),
        "--pool",
        "far=198.51.100.0/28",
    ];
    let found = clinic.find(&pools);
    let mac = "00:00:5e:00:53:0a";
    found.assert("address-conflict", "error", &format!("the host {mac} has it"));
    for address in [taken, taken_v6] {
        found.assert("address-conflict", "error", &address.to_string());
    }
    assert_eq!(found.of_level("error"), ["address-conflict"; 2], "{:#}", found.0);
    found.assert("pool-reserved", "warning", "192.0.2.20 (this machine, on eth0), 192.0.2.31 (Node node-1)");
    found.assert("pool-subnet", "warning", "198.51.100.1 is in no subnet");
    // Only what is in a subnet is asked for.
    let far = clinic.find(&["--pool", "far=198.51.100.0/28"]);
    far.assert("address-conflict", "skipped", "nobody was asked");
    let routed =
        clinic.find(&["--announce", "routed", "--datapath", "userspace", "--pool", "far=198.51.100.0/28"]);
    routed.assert("pool-subnet", "ok", "in no subnet of a link");
    assert!(!routed.0.to_string().contains("address-conflict"), "{:#}", routed.0);
    // Without the right to ask, the answer is not known.
    let without = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"];
    let found = clinic.find_by(&without, &pools);
    found.assert("rights", "warning", "CAP_NET_RAW");
    found.assert("address-conflict", "skipped", "nobody could be asked");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn missing_rights_and_low_limits_are_named() {
    let clinic = Clinic::new();
    let found = clinic.find_by(&WITHOUT_RIGHTS, &[]);
    for capability in ["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_BPF"] {
        found.assert("rights", "error", capability);
    }
    found.assert("rights", "warning", "CAP_PERFMON");
    found.assert("kernel-tcx", "skipped", "the process may not ask");
    let found = clinic.find_by(&WITHOUT_RIGHTS, &["--userspace"]);
    assert!(!found.0.to_string().contains("CAP_BPF"), "{:#}", found.0);
    let found = clinic.find_by(&["prlimit", "--nofile=1024:1024"], &[]);
    found.assert("open-files", "warning", "1024 files at most");
    // This kernel counts maps for the cgroup. For older ones there is a table beside the judgment.
    clinic.find_by(&["prlimit", "--memlock=65536:65536"], &[]).assert("memlock", "ok", "does not count maps");
    let elsewhere = clinic.lab.directory().join("no-bpffs");
    let found = clinic.find(&["--datapath", "tc", "--bpf-dir", elsewhere.to_str().unwrap()]);
    found.assert("bpffs", "error", "is on no bpffs");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn another_agent_on_the_link_is_named() {
    let clinic = Clinic::new();
    let manifests = clinic.manifests.path().to_str().unwrap();
    let mut other = Agent::start(clinic.balancer(), &["--userspace", "--manifests", manifests]).unwrap();
    let holder = format!("another llb-agent (pid {},", other.process().pid());
    clinic.find(&[]).assert("other-agent", "warning", &holder);
    let (pid, host) = (other.process().pid(), clinic.balancer());
    let state_dir = host.directory().join(format!("{}.state", host.name()));
    let found = clinic.find(&["--state-dir", state_dir.to_str().unwrap()]);
    found.assert("other-agent", "ok", &format!("the llb-agent that serves here (pid {pid}) has it"));
    other.terminate().unwrap();
    assert!(other.wait_exit().unwrap().success(), "{}", other.log());
    clinic.find(&[]).assert("other-agent", "ok", "");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nodes_that_do_not_answer_are_named() {
    let mut clinic = Clinic::new();
    clinic.servers.retain(|server| server.address().ip() != IpAddr::V4(clinic.lab.host("node-1").ipv4()));
    clinic.find(&[]).assert("node-port", "warning", "is refused by node-1 (192.0.2.31:30080)");
    let nowhere = IpAddr::V4(clinic.lab.black_hole());
    clinic.manifests.write("far.yaml", &manifests::node("far", &[nowhere])).unwrap();
    let found = clinic.find(&[]);
    found.assert("nodes", "warning", "far");
    found.assert("nodes", "ok", "2 addresses");
    clinic.manifests.remove("web.yaml").unwrap();
    let found = clinic.find(&[]);
    found.assert("nodes", "warning", "192.0.2.254:10250");
    found.assert("node-port", "skipped", "no Service");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_cluster_that_does_not_answer_is_named() {
    let clinic = Clinic::new();
    let folder = clinic.lab.directory();
    let nowhere = folder.join("nowhere");
    let found = clinic.find(&["--kubeconfig", nowhere.to_str().unwrap()]);
    found.assert("source", "error", "cannot read the kubeconfig");
    let kubeconfig = folder.join("kubeconfig");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
                contexts: [{name: x, context: {cluster: c, user: u}}]\n\
                clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n";
    std::fs::write(&kubeconfig, text).unwrap();
    let found = clinic.find(&["--kubeconfig", kubeconfig.to_str().unwrap()]);
    found.assert("source", "error", "http://127.0.0.1:1/ does not answer");
    clinic.manifests.write("broken.yaml", "kind: [").unwrap();
    clinic.find(&[]).assert("source", "warning", "broken.yaml");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_segment_that_drops_unknown_addresses_is_named() {
    let clinic = Clinic::new();
    let (v4, v6) = (clinic.lab.vip(9), clinic.lab.vip_v6(9));
    for address in [v4, v6] {
        let address = address.to_string();
        clinic.find(&["--try-address", &address]).assert("anti-spoofing", "ok", "accepts the new address");
    }
    let node = clinic.lab.host("node-1").ipv4().to_string();
    clinic.find(&["--try-address", &node]).assert("anti-spoofing", "skipped", "so it was not announced");
    clinic.find(&["--try-address", "192.0.2.20"]).assert("anti-spoofing", "skipped", "this machine has it");
    clinic.find(&["--try-address", "198.51.100.9"]).assert("anti-spoofing", "skipped", "no subnet");
    // The filter behaves like a switch that knows only this machine's own address.
    let rules = format!(
        "add table bridge guard\n\
         add chain bridge guard known {{ type filter hook forward priority 0; }}\n\
         add rule bridge guard known iifname balancer arp saddr ip != 192.0.2.20 drop\n\
         add rule bridge guard known iifname balancer ip6 saddr {v6} drop\n"
    );
    let file = clinic.lab.directory().join("rules");
    std::fs::write(&file, rules).unwrap();
    let status = clinic.lab.segment_command("nft").arg("-f").arg(&file).status().unwrap();
    assert!(status.success(), "{status}");
    for address in [v4, v6] {
        let address = address.to_string();
        clinic.find(&["--try-address", &address]).assert(
            "anti-spoofing",
            "error",
            "but not from the new one",
        );
    }
    // Nobody on the segment answers at all.
    NODES.iter().for_each(|node| clinic.lab.host(node).unplug().unwrap());
    clinic.find(&["--try-address", &v4.to_string()]).assert(
        "anti-spoofing",
        "warning",
        "does not even answer",
    );
}
