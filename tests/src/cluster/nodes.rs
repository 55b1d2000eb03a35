// SPDX-License-Identifier: Apache-2.0
//! What makes a host a Node: the Node object, kube-proxy, and the Pods on it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::control_plane::{self, ControlPlane};
use super::kubectl::Kubectl;
use super::{arguments, objects};
use crate::lab::Host;
use crate::process::Process;
use crate::wait::wait_until;

/// The names of the families in nft. kube-proxy has a table in each.
const FAMILIES: [&str; 2] = ["ip", "ip6"];

/// kube-proxy takes 2 s for its rules on two idle slow cores.
const PROXY_LIMIT: Duration = Duration::from_secs(60);

/// The families of a Node's InternalIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Families {
    Both,
    /// The Kubernetes tests of health checks ask every InternalIP of a Node, but kube-proxy checks a Service only on the
    /// addresses of its family.
    Ipv4,
}

/// A host with kube-proxy.
#[derive(Debug)]
pub(super) struct Node {
    /// `None` while the Node is deleted.
    proxy: Option<Process>,
    host: Host,
    /// Its InternalIPs.
    addresses: Vec<IpAddr>,
}

impl Node {
    pub(super) fn new(host: Host, families: Families) -> Result<Self> {
        host.run_inside(enable_forwarding)??;
        let mut addresses = vec![host.ipv4().into()];
        if families == Families::Both {
            addresses.push(host.ipv6().into());
        }
        Ok(Self { proxy: None, host, addresses })
    }

    /// Starts kube-proxy, without waiting until it is ready.
    pub(super) fn start_proxy(&mut self, control_plane: &ControlPlane) -> Result<()> {
        // Its ports are free again before the new one asks for them.
        self.proxy = None;
        self.proxy = Some(control_plane::spawn(
            &self.host,
            &control_plane.binaries().proxy,
            &format!("kube-proxy-{}", self.host.name()),
            arguments::proxy(self.host.name(), &control_plane.proxy),
        )?);
        Ok(())
    }

    /// Waits until kube-proxy has its rules for all families of the Node.
    pub(super) fn wait_ready(&self) -> Result<()> {
        for family in &FAMILIES[..self.addresses.len()] {
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

    /// Creates the Node object, Ready, with its InternalIPs.
    pub(super) fn register(&self, kubectl: &Kubectl) -> Result<()> {
        let name = self.host.name();
        kubectl.apply("default", &objects::node(name).to_string())?;
        let status = objects::node_status(name, &self.addresses);
        kubectl.patch_status("default", &format!("node/{name}"), &status)
    }

    pub(super) fn add_pod(&self, kubectl: &Kubectl, namespace: &str, app: &str) -> Result<()> {
        let pod = objects::pod(&self.pod_name(app), app, self.host.name());
        kubectl.apply(namespace, &pod.to_string())?;
        self.set_pod_ready(kubectl, namespace, app, true)
    }

    pub(super) fn set_pod_ready(
        &self,
        kubectl: &Kubectl,
        namespace: &str,
        app: &str,
        is_ready: bool,
    ) -> Result<()> {
        let status = objects::pod_status(&self.addresses, is_ready);
        kubectl.patch_status(namespace, &format!("pod/{}", self.pod_name(app)), &status)
    }

    pub(super) fn delete_pod(&self, kubectl: &Kubectl, namespace: &str, app: &str) -> Result<()> {
        let delete = ["--namespace", namespace, "delete", "pod", &self.pod_name(app), "--force"];
        kubectl.run(&delete).map(drop)
    }

    /// Ends kube-proxy and removes its rules, which would outlive it.
    pub(super) fn stop_proxy(&mut self) -> Result<()> {
        self.proxy = None;
        for family in FAMILIES {
            self.host.output(&["nft", "delete", "table", family, "kube-proxy"])?;
        }
        Ok(())
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    fn pod_name(&self, app: &str) -> String {
        format!("{app}-{}", self.host.name())
    }
}

/// Runs inside the node's namespace.
fn enable_forwarding() -> Result<()> {
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = Path::new("/proc/sys/net").join(path);
        fs::write(&path, "1").with_context(|| format!("cannot set {}", path.display()))?;
    }
    Ok(())
}
