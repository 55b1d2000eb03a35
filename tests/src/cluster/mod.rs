// SPDX-License-Identifier: Apache-2.0
//! A real Kubernetes in a lab, without containers: control plane and kube-proxy are processes in network
//! namespaces; Nodes and Pods are made by hand.
//!
//! ```text
//!   client    balancer    node-1            node-2            control
//!     |       (agent)     kube-proxy        kube-proxy        etcd, kube-apiserver,
//!     |          |        "pods"            "pods"            kube-controller-manager
//!   --+----------+-----------+-----------------+-----------------+------
//! ```
//!
//! What a user of llb meets is real: API, RBAC, NodePorts, EndpointSlices, kubectl. The kubelet is not: a "Pod"
//! is a server on the address of its node, and the test patches its status. (The conformance tests have a stand-in for
//! the kubelet.) Dropping the cluster ends every process.
//!
//! A green test with it does not prove that llb works with a CNI plugin, with Pods that have addresses of their
//! own, with kubelets that report late, with other versions of Kubernetes, or with several API servers.

mod arguments;
mod audit;
mod binaries;
mod certificates;
mod control_plane;
mod helm;
mod kubeconfig;
mod kubectl;
mod nodes;
mod objects;

pub use audit::Write;
pub use binaries::{Binaries, KUBERNETES_VERSION, program};
pub use helm::{HELM_VERSION, deploy_folder};
pub use kubeconfig::CONTEXT;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use control_plane::ControlPlane;
use nodes::{Families, Node};

use crate::lab::Lab;
use crate::wait::wait_until;

/// The rights that llb ships, so the tests fail if these are too few.
const AGENT_RBAC: &str = include_str!("../../../llb-agent/deploy/rbac.yaml");

/// Namespace and name of the agent's ServiceAccount in [`AGENT_RBAC`].
const AGENT_NAMESPACE: &str = "llb";
const AGENT_ACCOUNT: &str = "llb-agent";

/// A controller reacts within a second; two busy slow cores need more.
const CONTROLLER_LIMIT: Duration = Duration::from_secs(60);

/// A running cluster; its nodes are the lab's hosts `node-1` and `node-2`.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    control_plane: ControlPlane,
    agent: PathBuf,
}

impl Cluster {
    /// Adds the host `control` to the lab, starts everything, and waits until it is ready. This takes about 10
    /// s.
    ///
    /// # Errors
    /// A program is missing (the error says how to get it), or did not get ready (the error holds the end of
    /// its log).
    pub fn start(lab: &mut Lab) -> Result<Self> {
        Self::start_with(lab, Families::Both)
    }

    /// As [`Cluster::start`], with Nodes on which the conformance tests can run: their InternalIPs are IPv4 only.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub fn start_for_pods(lab: &mut Lab) -> Result<Self> {
        Self::start_with(lab, Families::Ipv4)
    }

    fn start_with(lab: &mut Lab, families: Families) -> Result<Self> {
        let binaries = Binaries::find()?;
        let control_plane = ControlPlane::start(lab.add_host("control")?, binaries)?;
        let mut cluster = Self { nodes: Vec::new(), control_plane, agent: PathBuf::new() };
        for name in ["node-1", "node-2"] {
            let mut node = Node::new(lab.host(name).clone(), families)?;
            node.register(&cluster.control_plane.kubectl)?;
            node.start_proxy(&cluster.control_plane)?;
            cluster.nodes.push(node);
        }
        cluster.control_plane.kubectl.run_with_input(&["apply", "-f", "-"], AGENT_RBAC)?;
        let token = cluster.token(AGENT_NAMESPACE, AGENT_ACCOUNT)?;
        cluster.agent = cluster.write_kubeconfig("agent", &token)?;
        for node in &cluster.nodes {
            node.wait_ready()?;
        }
        wait_until(CONTROLLER_LIMIT, "the controller manager to make the default ServiceAccount", || {
            cluster.kubectl(&["get", "serviceaccount", "default"]).map(Some)
        })?;
        Ok(cluster)
    }

    /// The kubeconfig of the agent's own ServiceAccount, with exactly the rights of
    /// `llb-agent/deploy/rbac.yaml`.
    pub fn agent_kubeconfig(&self) -> &Path {
        &self.agent
    }

    /// The kubeconfig of an administrator.
    pub fn admin_kubeconfig(&self) -> &Path {
        self.control_plane.kubectl.kubeconfig()
    }

    /// Writes a kubeconfig for the user with this token.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        self.control_plane.write_kubeconfig(name, token)
    }

    /// A token of a ServiceAccount, made by `kubectl create token`.
    ///
    /// # Errors
    /// There is no such account.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let token =
            self.kubectl(&["--namespace", namespace, "create", "token", account, "--duration=24h"])?;
        Ok(token.trim().to_owned())
    }

    /// Runs kubectl as administrator and returns its standard output.
    ///
    /// # Errors
    /// kubectl failed; the error holds its standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.control_plane.kubectl.run(arguments)
    }

    /// `kubectl apply` of `objects` (YAML or JSON) in `namespace`.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn apply(&self, namespace: &str, objects: &str) -> Result<()> {
        self.control_plane.kubectl.apply(namespace, objects)
    }

    /// Runs kubectl as administrator with `input` as its standard input, and returns its standard output.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.control_plane.kubectl.run_with_input(arguments, input)
    }

    /// Runs helm as administrator and returns its standard output.
    ///
    /// # Errors
    /// There is no helm, or it failed; the error holds its standard error.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        helm::run(self.control_plane.host(), self.admin_kubeconfig(), arguments)
    }

    /// The PEM file with the cluster's authority.
    pub fn authority(&self) -> &Path {
        self.control_plane.authority()
    }

    /// `kubectl get` of one object or of a list, as JSON.
    /// Runs `kubectl get` for one object or a list, and returns the JSON.
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn get(&self, namespace: &str, arguments: &[&str]) -> Result<Value> {
        let all = [&["--namespace", namespace, "get", "-o", "json"], arguments].concat();
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// What was written to Services and Events of a namespace so far.
    ///
    /// # Errors
    /// There is no audit log.
    pub fn writes_in(&self, namespace: &str) -> Result<Vec<Write>> {
        self.control_plane.writes_in(namespace)
    }

    /// The user name of the agent's ServiceAccount.
    pub fn agent_user(&self) -> String {
        format!("system:serviceaccount:{AGENT_NAMESPACE}:{AGENT_ACCOUNT}")
    }

    /// Takes the Lease from the agent that has it. An agent that was killed keeps it for half a minute, and until then
    /// another one writes no status.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn free_lease(&self) -> Result<()> {
        let patch = ["--type=merge", "-p", r#"{"spec":{"holderIdentity":null}}"#];
        let lease = ["--namespace", "kube-system", "patch", "lease", "llb.dev-llb"];
        self.kubectl(&[&lease[..], &patch].concat()).map(drop)
    }

    /// Kills the API server. Nobody can reach it from then on, and open watches break.
    ///
    /// # Errors
    /// It was stopped before.
    pub fn stop_apiserver(&mut self) -> Result<()> {
        self.control_plane.stop_apiserver()
    }

    /// Starts the stopped API server with the same certificate and the same objects, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// It did not get ready.
    pub fn start_apiserver(&mut self) -> Result<()> {
        self.control_plane.start_apiserver()
    }

    /// Runs [`Cluster::stop_apiserver`], then [`Cluster::start_apiserver`].
    ///
    /// # Errors
    /// As for those.
    pub fn restart_apiserver(&mut self) -> Result<()> {
        self.stop_apiserver()?;
        self.start_apiserver()
    }

    /// Cuts the API server off, or connects it again: packets to it vanish, and nobody is told.
    ///
    /// # Errors
    /// `ip` refused.
    pub fn cut_off_apiserver(&self, cut_off: bool) -> Result<()> {
        let host = self.control_plane.host();
        if cut_off { host.unplug() } else { host.plug_in() }
    }

    /// Saves all objects under this name. The API server is away for that time.
    ///
    /// # Errors
    /// etcd or the API server did not get ready.
    pub fn save_etcd(&mut self, name: &str) -> Result<()> {
        self.control_plane.save_etcd(name)
    }

    /// Brings back the objects that [`Cluster::save_etcd`] saved, as a restore from a backup does.
    ///
    /// # Errors
    /// As [`Cluster::save_etcd`].
    pub fn restore_etcd(&mut self, name: &str) -> Result<()> {
        self.control_plane.restore_etcd(name)
    }

    /// Starts kube-proxy of all nodes anew. After [`Cluster::restore_etcd`], it would hear of no change.
    ///
    /// # Errors
    /// It did not get ready.
    pub fn restart_proxies(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start_proxy(&self.control_plane)?;
            node.wait_ready()?;
        }
        Ok(())
    }

    /// Runs `work` while the API server has a certificate of another authority, which kubeconfigs that are written in
    /// that time name.
    ///
    /// # Errors
    /// As `work`, or the API server did not get ready.
    pub fn with_another_authority<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let old = self.control_plane.renew_authority()?;
        let result = work(self);
        // The other cases need it, also if this one failed.
        self.control_plane.use_certificates(old)?;
        result
    }

    /// Deletes the Node and stops its kube-proxy: nothing answers at its nodePorts any more.
    ///
    /// # Errors
    /// kubectl or nft failed, or there is no such node.
    pub fn delete_node(&mut self, name: &str) -> Result<()> {
        self.kubectl(&["delete", "node", name])?;
        let index = self.node_index(name)?;
        self.nodes[index].stop_proxy()
    }

    /// Brings a node back after [`Cluster::delete_node`]; returns when its
    /// kube-proxy is ready.
    ///
    /// # Errors
    /// kubectl or kube-proxy failed, or there is no such node.
    pub fn restore_node(&mut self, name: &str) -> Result<()> {
        let index = self.node_index(name)?;
        let node = &mut self.nodes[index];
        node.register(&self.control_plane.kubectl)?;
        node.start_proxy(&self.control_plane)?;
        node.wait_ready()
    }

    /// Creates the Pod `<app>-<node>` with the label `app=<app>`, Running and Ready,
    /// on the addresses of its node. The caller starts the server that it stands for.
    ///
    /// # Errors
    /// kubectl failed, or there is no such node.
    pub fn add_pod(&self, namespace: &str, app: &str, node: &str) -> Result<()> {
        self.nodes[self.node_index(node)?].add_pod(&self.control_plane.kubectl, namespace, app)
    }

    /// Makes a Pod of [`Cluster::add_pod`] ready or unready.
    ///
    /// # Errors
    /// As [`Cluster::add_pod`].
    pub fn set_pod_ready(&self, namespace: &str, app: &str, node: &str, is_ready: bool) -> Result<()> {
        let node = &self.nodes[self.node_index(node)?];
        node.set_pod_ready(&self.control_plane.kubectl, namespace, app, is_ready)
    }

    /// Deletes a Pod of [`Cluster::add_pod`].
    ///
    /// # Errors
    /// kubectl failed, or there is no such node.
    pub fn delete_pod(&self, namespace: &str, app: &str, node: &str) -> Result<()> {
        self.nodes[self.node_index(node)?].delete_pod(&self.control_plane.kubectl, namespace, app)
    }

    fn node_index(&self, name: &str) -> Result<usize> {
        let position = self.nodes.iter().position(|node| node.host().name() == name);
        position.with_context(|| format!("the cluster has no node {name}"))
    }
}
