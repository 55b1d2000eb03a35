// SPDX-License-Identifier: Apache-2.0
//! A cluster in which Pods run, with llb on one plane, and a client that is on another network than the Nodes.
//!
//! ```text
//!   client            balancer     node-1                  node-2                  control
//!   (the tests)       (agent)      kube-proxy, kubelet     kube-proxy, kubelet     control plane,
//!     |                  |         Pods 10.244.1.*         Pods 10.244.2.*         scheduler
//!   --+------------------+-----------+------------------------+---------------------+------
//! ```
//!
//! Every host has routes to the Pods, as with a CNI plugin that uses no tunnel.

use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use llb_tests::cluster::Cluster;
use llb_tests::plane::{Plane, Prepared};
use llb_tests::{Agent, Host, Lab};
use serde_json::json;
use tokio::sync::watch;

use crate::kubelet::{self, Kubelet};
use crate::planes::Column;
use crate::suite::Suite;
use crate::{api, scheduler};

/// The nodes and their Pods' networks, of which kube-proxy knows the whole range.
const NODES: [(&str, [u8; 3]); 2] = [("node-1", [10, 244, 1]), ("node-2", [10, 244, 2])];

/// The client's network (RFC 5737). The tests take a client of the Nodes' own /16 for a Node.
const CLIENT_NETWORK: &str = "198.51.100.0/24";
const CLIENT: &str = "198.51.100.10";

/// The addresses that Services get; the lab gives them to no host.
const POOL: &str = "192.0.2.100-192.0.2.199";

// Fields are dropped in this order: what uses another one goes first.
pub(crate) struct Stage {
    agent: Agent,
    _scheduler: Scheduler,
    _kubelets: Vec<Kubelet>,
    cluster: Cluster,
    _prepared: Prepared,
    lab: Lab,
}

impl Stage {
    /// Starts everything and waits until the agent is ready.
    pub(crate) fn start(column: &Column, agnhost: &Path) -> Result<Self> {
        let mut lab = Lab::new()?;
        let prepared = column.plane.prepare(&mut lab)?;
        let cluster = Cluster::start_for_pods(&mut lab)?;
        connect(&lab)?;
        let admin = cluster.admin_kubeconfig();
        let mut kubelets = Vec::new();
        for (name, prefix) in NODES {
            declare_kubelet(&cluster, name)?;
            kubelets.push(Kubelet::start(lab.host(name), admin, agnhost, prefix)?);
        }
        let scheduler = Scheduler::start(lab.host("control"), admin)?;
        let kubeconfig = cluster.agent_kubeconfig().display().to_string();
        let mut arguments = vec!["--kubeconfig", &kubeconfig, "--pool", POOL, "--drain-timeout", "5s"];
        arguments.extend(["--finalizer", "on"]);
        arguments.extend(column.arguments());
        let agent = Agent::start(lab.balancer(), &arguments)?;
        Ok(Self { agent, _scheduler: scheduler, _kubelets: kubelets, cluster, _prepared: prepared, lab })
    }

    /// The program with the tests, on the client.
    pub(crate) fn suite(&self, program: &Path) -> Suite {
        Suite::new(program, self.cluster.admin_kubeconfig(), self.lab.client())
    }

    /// Fails if another plane than that of the column has served.
    pub(crate) fn check_plane(&self, column: &Column) -> Result<()> {
        let relayed = self.agent.metric("llb_relay_connections_total")?;
        let by_kernel = self.agent.metric("llb_sockmap_handovers_total")?;
        let is_right = match column.plane {
            Plane::Userspace => by_kernel == 0,
            Plane::Sockmap => by_kernel > 0 || relayed == 0,
            Plane::Tc | Plane::TcClsact | Plane::XdpNative | Plane::XdpGeneric => relayed == 0,
        };
        ensure!(
            is_right,
            "{}: {relayed} connections relayed, {by_kernel} of them moved by the kernel",
            column.name
        );
        Ok(())
    }

    /// The agent, for what it says about a failure.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }
}

struct Scheduler {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Scheduler {
    fn start(host: &Host, kubeconfig: &Path) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let nodes = NODES.map(|(name, _)| name.to_owned()).to_vec();
        let thread = api::thread(host, kubeconfig, stopped, |client| scheduler::run(client, nodes))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed already.
            let _ = thread.join();
        }
    }
}

/// Gives all hosts routes to Pods and to the client's network.
fn connect(lab: &Lab) -> Result<()> {
    let link = Host::LINK;
    for host in lab.hosts() {
        let mut commands = String::new();
        for (name, [a, b, c]) in NODES.into_iter().filter(|(name, _)| *name != host.name()) {
            commands += &format!("route add {a}.{b}.{c}.0/24 via {} dev {link}\n", lab.host(name).ipv4());
        }
        commands += &if host.name() == "client" {
            format!("addr add {CLIENT}/24 dev {link}\nroute replace 192.0.2.0/24 dev {link} src {CLIENT}\n")
        } else {
            format!("route add {CLIENT_NETWORK} dev {link}\n")
        };
        host.ip(&commands).with_context(|| format!("routes of {}", host.name()))?;
    }
    Ok(())
}

/// Adds to the Node what its kubelet would report: where it listens, that it takes WebSockets, and room for Pods.
fn declare_kubelet(cluster: &Cluster, node: &str) -> Result<()> {
    let room = json!({"pods": "110", "cpu": "64", "memory": "64Gi"});
    let status = json!({"status": {
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet::PORT}},
        "declaredFeatures": ["ExtendWebSocketsToKubelet"],
        "capacity": room,
        "allocatable": room,
    }});
    let patch = ["patch", "node", node, "--subresource=status", "--type=merge", "-p", &status.to_string()];
    cluster.kubectl(&patch).map(drop)
}
