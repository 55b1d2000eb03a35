// SPDX-License-Identifier: Apache-2.0
//! A lab whose balancer is a virtual machine with plain Debian and systemd. Client and nodes are namespaces, as in every
//! lab. It knows where llb's package keeps its files, nothing of what a test wants.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use llb_tests::client::http_get;
use llb_tests::lab::BRIDGE;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Host, Lab, Manifests, Server, environment, wait_until};

use super::version::with_version;
use crate::card::Card;
use crate::kernel::Kernel;
use crate::machine::{Machine, SHARE};
use crate::stage::{IPV4, IPV6, NODES};

const WEB: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };
const ECHO: PortSpec<'static> = PortSpec { name: "echo", port: 7, protocol: "TCP", node_port: 30007 };

const CARD: Card = Card::VirtioQueues;

/// For one step. An emulated machine on busy processors has taken four minutes to unpack a package.
pub(super) const LIMIT: Duration = Duration::from_secs(600);

/// In the machine.
const MANIFESTS: &str = "/etc/llb/manifests";

/// Fields are dropped in this order: the lab goes last.
pub(super) struct Debian {
    machine: Machine,
    _servers: Vec<Server>,
    manifests: Manifests,
    kernel: Kernel,
    disk: PathBuf,
    lab: Lab,
}

impl Debian {
    /// Boots a Debian without llb, and starts servers on two nodes.
    pub(super) fn start(kernel: Kernel) -> Result<Self> {
        let mut lab = Lab::empty()?;
        for name in ["client"].iter().chain(&NODES) {
            lab.add_host(name)?;
        }
        lab.segment_ip(&format!("{}link set {} master {BRIDGE} up\n", CARD.add_tap(), CARD.tap()))?;
        let nodes = NODES.map(|name| lab.host(name));
        let mut servers = Vec::new();
        for node in nodes {
            servers.push(Server::http(node, node.at(WEB.node_port), node.name())?);
            servers.push(Server::echo(node, node.at(ECHO.node_port))?);
        }
        let manifests = Manifests::new(nodes[0], "manifests")?;
        manifests.write("nodes.yaml", &manifests::nodes(&nodes))?;
        let disk = lab.directory().join("disk");
        let status =
            Command::new("cp").arg("--sparse=always").arg(environment::debian()?).arg(&disk).status()?;
        ensure!(status.success(), "cannot copy the disk");
        let machine = Machine::start(&kernel, &lab, &[CARD], Some(&disk))?;
        let mut debian = Self { machine, _servers: servers, manifests, kernel, disk, lab };
        debian.wait_for_boot()?;
        let network = format!(
            "[Match]\\nName={}\\n[Network]\\nAddress={IPV4}/24\\nAddress={IPV6}/64\\nIPv6AcceptRA=no\\n",
            Host::LINK
        );
        debian.run(&format!("printf '{network}' > /etc/systemd/network/lab.network"))?;
        debian.run("systemctl restart systemd-networkd && /lib/systemd/systemd-networkd-wait-online")?;
        Ok(debian)
    }

    /// Shuts the machine down and starts it again.
    pub(super) fn reboot(self) -> Result<Self> {
        self.machine.power_off()?;
        let machine = Machine::start(&self.kernel, &self.lab, &[CARD], Some(&self.disk))?;
        let mut debian = Self { machine, ..self };
        debian.wait_for_boot()?;
        Ok(debian)
    }

    fn wait_for_boot(&mut self) -> Result<()> {
        let state =
            self.run("systemctl is-system-running --wait || systemctl --failed --no-legend --plain")?;
        ensure!(state.trim() == "running", "Debian does not run as it should: {state}");
        Ok(())
    }

    /// Runs a line of shell in the machine and returns its output.
    pub(super) fn run(&mut self, command: &str) -> Result<String> {
        self.machine.run_for(LIMIT, command)
    }

    pub(super) fn client(&self) -> &Host {
        self.lab.client()
    }

    pub(super) fn vip(&self, number: u8) -> IpAddr {
        self.lab.vip(number)
    }

    /// Where the web server of this VIP is reached.
    pub(super) fn web(&self, number: u8) -> SocketAddr {
        SocketAddr::new(self.vip(number), WEB.port)
    }

    pub(super) fn echo(&self) -> SocketAddr {
        SocketAddr::new(self.vip(0), ECHO.port)
    }

    /// Installs the package with this version, or upgrades to it.
    pub(super) fn install(&mut self, version: &str) -> Result<String> {
        let name = format!("llb_{version}_amd64.deb");
        let folder = self.lab.directory();
        with_version(&environment::package()?, version, &folder.join(&name), folder)?;
        self.apt(&format!("install {SHARE}/{name}"))
    }

    /// There is no way to an archive from here, and none is needed. (`--no-download` fails with a file.)
    pub(super) fn apt(&mut self, what: &str) -> Result<String> {
        self.run(&format!("DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet {what}"))
    }

    /// Replaces the configuration by the usual one and these lines.
    pub(super) fn configure(&mut self, lines: &str) -> Result<()> {
        let usual = format!("linkdevice = \"{}\"\nmanifests = \"{MANIFESTS}\"\n", Host::LINK);
        std::fs::write(self.lab.directory().join("llb.toml"), usual + lines)?;
        self.run(&format!("cat {SHARE}/llb.toml > /etc/llb/llb.toml")).map(drop)
    }

    /// Gives llb a Service with both ports for the VIP of this number.
    pub(super) fn add_service(&mut self, number: u8) -> Result<()> {
        let name = format!("web-{number}");
        let yaml = manifests::service(&name, &[self.vip(number)], &[WEB, ECHO]);
        self.manifests.write(&format!("{name}.yaml"), &yaml)?;
        self.run(&format!("mkdir -p {MANIFESTS} && cp {SHARE}/manifests/* {MANIFESTS}")).map(drop)
    }

    /// Waits until the web server of this VIP answers.
    pub(super) fn wait_for_answer(&mut self, number: u8) -> Result<()> {
        let (client, web) = (self.client().clone(), self.web(number));
        wait_until(LIMIT, &format!("an answer of {web}"), || http_get(&client, web).map(|_| Some(())))
            .with_context(|| self.journal())
    }

    /// Waits until this line of shell succeeds in the machine.
    pub(super) fn wait_for(&mut self, command: &str) -> Result<()> {
        wait_until(LIMIT, command, || self.run(command).map(|_| Some(()))).with_context(|| self.journal())
    }

    /// What llb has said.
    pub(super) fn journal(&mut self) -> String {
        let journal = self.run("journalctl --unit llb --no-pager --output short-monotonic --lines 60");
        journal.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// The processes of the service.
    pub(super) fn processes(&mut self) -> Result<Vec<u32>> {
        let list = "cat /sys/fs/cgroup/system.slice/llb.service/cgroup.procs 2>/dev/null || true";
        Ok(self.run(list)?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Whether the machine has the VIP of this number.
    pub(super) fn has_vip(&mut self, number: u8) -> Result<bool> {
        let vip = format!(" {}/", self.vip(number));
        Ok(self.run("ip -o address show")?.contains(&vip))
    }
}
