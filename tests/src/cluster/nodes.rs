// SPDX-License-Identifier: Apache-2.0
//! What makes a host a Node: the Node object, kube-proxy, and the Pods on it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::control_plane::{self, ControlPlane};
use super::{Cluster, arguments, objects};
use crate::lab::Host;
use crate::process::Process;
use crate::wait::wait_until;

/// As nft calls them; kube-proxy has a table in each.
const FAMILIES: [&str; 2] = ["ip", "ip6"];

/// kube-proxy has its rules in place within 2 s on two idle slow cores.
const PROXY_LIMIT: Duration = Duration::from_secs(60);

/// A host with kube-proxy.
#[derive(Debug)]
pub(super) struct Node {
    /// `None` while the Node is deleted.
    proxy: Option<Process>,
    host: Host,
}

impl Node {
    pub(super) fn new(host: Host) -> Result<Self> {
        host.run_inside(enable_forwarding)??;
        Ok(Self { proxy: None, host })
    }

    /// Starts kube-proxy; it is not ready yet.
    pub(super) fn start_proxy(&mut self, control_plane: &ControlPlane) -> Result<()> {
        self.proxy = Some(control_plane::spawn(
            &self.host,
            &control_plane.binaries().proxy,
            &format!("kube-proxy-{}", self.host.name()),
            arguments::proxy(self.host.name(), &control_plane.proxy),
        )?);
        Ok(())
    }

    /// Waits for the rules of both families.
    pub(super) fn wait_ready(&self) -> Result<()> {
        for family in FAMILIES {
            wait_until(PROXY_LIMIT, "the rules of kube-proxy", || {
                self.host.output(&["nft", "list", "chain", family, "kube-proxy", "services"]).map(Some)
            })
            .with_context(|| {
                let log = self.proxy.as_ref().map(Process::log_tail).unwrap_or_default();
                format!("the log of kube-proxy ends with:\n{log}")
            })?;
        }
        Ok(())
    }

    /// Ends kube-proxy and takes its rules away, which would outlive it.
    fn stop_proxy(&mut self) -> Result<()> {
        self.proxy = None;
        for family in FAMILIES {
            self.host.output(&["nft", "delete", "table", family, "kube-proxy"])?;
        }
        Ok(())
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }
}

// === impl Cluster ===

impl Cluster {
    /// Deletes the Node, and nothing answers its nodePorts any more.
    ///
    /// # Errors
    /// kubectl or nft failed, or there is no such node.
    pub fn delete_node(&mut self, name: &str) -> Result<()> {
        self.kubectl(&["delete", "node", name])?;
        self.node_mut(name)?.stop_proxy()
    }

    /// Brings a node back after [`Cluster::delete_node`]; returns when its
    /// kube-proxy is ready.
    ///
    /// # Errors
    /// kubectl or kube-proxy failed, or there is no such node.
    pub fn restore_node(&mut self, name: &str) -> Result<()> {
        self.register_node(&self.node_host(name)?.clone())?;
        let index = self.node_index(name)?;
        self.nodes[index].start_proxy(&self.control_plane)?;
        self.nodes[index].wait_ready()
    }

    /// Creates the Node object of `host`, Ready, with an IPv4 and an IPv6 InternalIP.
    pub(super) fn register_node(&self, host: &Host) -> Result<()> {
        self.apply("default", &objects::node(host.name()).to_string())?;
        let status = objects::node_status(host.name(), &addresses(host));
        self.patch_status("default", &format!("node/{}", host.name()), &status)
    }

    /// Creates the Pod `<app>-<node>` with label `app=<app>`, Running and Ready,
    /// on the addresses of its node. Its server is the caller's business.
    ///
    /// # Errors
    /// kubectl failed, or there is no such node.
    pub fn add_pod(&self, namespace: &str, app: &str, node: &str) -> Result<()> {
        let name = pod_name(app, node);
        self.apply(namespace, &objects::pod(&name, app, node).to_string())?;
        self.set_pod_ready(namespace, app, node, true)
    }

    /// Makes a Pod of [`Cluster::add_pod`] ready or unready.
    ///
    /// # Errors
    /// As [`Cluster::add_pod`].
    pub fn set_pod_ready(&self, namespace: &str, app: &str, node: &str, is_ready: bool) -> Result<()> {
        let status = objects::pod_status(&addresses(self.node_host(node)?), is_ready);
        self.patch_status(namespace, &format!("pod/{}", pod_name(app, node)), &status)
    }

    /// Deletes a Pod of [`Cluster::add_pod`].
    ///
    /// # Errors
    /// kubectl failed.
    pub fn delete_pod(&self, namespace: &str, app: &str, node: &str) -> Result<()> {
        self.kubectl(&["--namespace", namespace, "delete", "pod", &pod_name(app, node), "--force"]).map(drop)
    }
}

impl Cluster {
    fn node_index(&self, name: &str) -> Result<usize> {
        let position = self.nodes.iter().position(|node| node.host.name() == name);
        position.with_context(|| format!("the cluster has no node {name}"))
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        let index = self.node_index(name)?;
        Ok(&mut self.nodes[index])
    }

    fn node_host(&self, name: &str) -> Result<&Host> {
        Ok(self.nodes[self.node_index(name)?].host())
    }
}

fn pod_name(app: &str, node: &str) -> String {
    format!("{app}-{node}")
}

fn addresses(host: &Host) -> [IpAddr; 2] {
    [host.ipv4().into(), host.ipv6().into()]
}

/// Runs inside the node's namespace.
fn enable_forwarding() -> Result<()> {
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = Path::new("/proc/sys/net").join(path);
        fs::write(&path, "1").with_context(|| format!("cannot set {}", path.display()))?;
    }
    Ok(())
}
