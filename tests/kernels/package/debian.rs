// SPDX-License-Identifier: Apache-2.0
//! A cluster's lab whose balancer is a virtual machine with plain Debian and systemd. Client, nodes and control plane are
//! namespaces, as in every lab. It knows where llb's package keeps its files, nothing of what a test wants.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use llb_tests::client::http_get;
use llb_tests::cluster::Cluster;
use llb_tests::lab::BRIDGE;
use llb_tests::{Host, Lab, Server, environment, wait_until};
use serde_json::json;

use super::version::newer;
use crate::card::Card;
use crate::kernel::Kernel;
use crate::machine::{Machine, SHARE};
use crate::stage::{IPV4, IPV6, NODES};

/// The ports of every Service, and those of the servers behind it.
const WEB: [u16; 2] = [80, 8080];
const ECHO: [u16; 2] = [7, 8007];

/// The namespace of all Services, and the label of the Pods behind them.
const NAMESPACE: &str = "default";
const APP: &str = "web";

const CARD: Card = Card::VirtioQueues;

/// For one step. An emulated machine on busy processors has taken four minutes to unpack a package.
pub(super) const LIMIT: Duration = Duration::from_secs(600);

/// In the machine.
const KUBECONFIG: &str = "/etc/llb/kubeconfig";

/// Fields are dropped in this order: the lab goes last.
pub(super) struct Debian {
    machine: Machine,
    _servers: Vec<Server>,
    cluster: Cluster,
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
        let cluster = Cluster::start(&mut lab)?;
        let mut servers = Vec::new();
        for node in NODES {
            let host = lab.host(node);
            servers.push(Server::http(host, host.at(WEB[1]), node)?);
            servers.push(Server::echo(host, host.at(ECHO[1]))?);
            cluster.add_pod(NAMESPACE, APP, node)?;
        }
        let disk = lab.directory().join("disk");
        let status =
            Command::new("cp").arg("--sparse=always").arg(environment::debian()?).arg(&disk).status()?;
        ensure!(status.success(), "cannot copy the disk");
        let machine = Machine::start(&kernel, &lab, &[CARD], Some(&disk))?;
        let mut debian = Self { machine, _servers: servers, cluster, kernel, disk, lab };
        debian.wait_for_boot()?;
        let network = format!(
            "[Match]\\nName={}\\n[Network]\\nAddress={IPV4}/24\\nAddress={IPV6}/64\\nIPv6AcceptRA=no\\n",
            Host::LINK
        );
        debian.run(&format!("printf '{network}' > /etc/systemd/network/lab.network"))?;
        debian.run("systemctl restart systemd-networkd && /lib/systemd/systemd-networkd-wait-online")?;
        // As in a container. After a reboot, systemd has mounted it.
        debian.run("umount /sys/fs/bpf")?;
        Ok(debian)
    }

    /// Shuts the machine down and starts it again. Nobody gives it a command until it has booted.
    pub(super) fn reboot(&mut self) -> Result<()> {
        self.machine.power_off()?;
        self.machine = Machine::start(&self.kernel, &self.lab, &[CARD], Some(&self.disk))?;
        Ok(())
    }

    /// Waits until every unit of the machine has started.
    pub(super) fn wait_for_boot(&mut self) -> Result<()> {
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
        SocketAddr::new(self.vip(number), WEB[0])
    }

    pub(super) fn echo(&self) -> SocketAddr {
        SocketAddr::new(self.vip(0), ECHO[0])
    }

    /// Brings the package. Returns where the machine finds it.
    pub(super) fn package(&self) -> Result<String> {
        fs::copy(environment::package()?, self.lab.directory().join("llb.deb"))?;
        Ok(format!("{SHARE}/llb.deb"))
    }

    /// Brings the package with a higher version. Returns where the machine finds it, and the version.
    pub(super) fn newer_package(&self) -> Result<(String, String)> {
        let folder = self.lab.directory();
        let version = newer(&environment::package()?, &folder.join("newer.deb"), folder)?;
        Ok((format!("{SHARE}/newer.deb"), version))
    }

    /// There is no way to an archive from here, and none is needed. (`--no-download` fails with a file.)
    pub(super) fn apt(&mut self, what: &str) -> Result<String> {
        self.run(&format!("DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet {what}"))
    }

    /// Brings the kubeconfig of llb's ServiceAccount, which only root and llb may read.
    pub(super) fn bring_kubeconfig(&mut self) -> Result<()> {
        let file = self.cluster.agent_kubeconfig().strip_prefix(self.lab.directory())?;
        let file = format!("{SHARE}/{}", file.display());
        self.run(&format!("install -m 640 -g llb {file} {KUBECONFIG}")).map(drop)
    }

    /// Replaces the configuration by the usual one and these lines.
    pub(super) fn configure(&mut self, lines: &str) -> Result<()> {
        let usual = format!("linkdevice = \"{}\"\nkubeconfig = \"{KUBECONFIG}\"\n", Host::LINK);
        fs::write(self.lab.directory().join("llb.toml"), usual + lines)?;
        self.run(&format!("cat {SHARE}/llb.toml > /etc/llb/llb.toml")).map(drop)
    }

    /// Adds the Service `web-NUMBER` with both ports, which asks for the VIP of this number.
    pub(super) fn add_service(&self, number: u8) -> Result<()> {
        let port =
            |name: &str, [port, target]: [u16; 2]| json!({"name": name, "port": port, "targetPort": target});
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": format!("web-{number}")},
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerIP": self.vip(number),
                "selector": {"app": APP},
                "ports": [port("http", WEB), port("echo", ECHO)],
            },
        });
        self.cluster.apply(NAMESPACE, &service.to_string())
    }

    /// Waits until users of the cluster see the VIP of this number at its Service.
    pub(super) fn wait_for_publication(&self, number: u8) -> Result<()> {
        let (service, vip) = (format!("web-{number}"), self.vip(number).to_string());
        wait_until(LIMIT, &format!("Service {service} to have {vip}"), || {
            let ingress = &self.cluster.get(NAMESPACE, &["service", &service])?["status"]["loadBalancer"];
            ensure!(ingress["ingress"][0]["ip"] == vip.as_str(), "{ingress}");
            Ok(Some(()))
        })
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

    /// How long the machine has been up, in seconds.
    pub(super) fn uptime(&mut self) -> Result<f64> {
        let text = self.run("cut -d' ' -f1 /proc/uptime")?;
        text.trim().parse().with_context(|| format!("/proc/uptime: {text}"))
    }

    /// A number that systemd knows of the service, in seconds. `unit` is its unit.
    pub(super) fn seconds(&mut self, property: &str, unit: f64) -> Result<f64> {
        let text = self.run(&format!("systemctl show --property={property} --value llb"))?;
        let number: f64 = text.trim().parse().with_context(|| format!("{property}: {text}"))?;
        Ok(number * unit)
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
