// SPDX-License-Identifier: Apache-2.0
//! The life of one Pod: network, process, readiness, end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use llb_tests::lab::PodNetwork;
use llb_tests::wait::wait_until_async;
use llb_tests::{Host, Process};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::node::Node;
use super::{probe, status};

/// The longest time in which a Pod ends; see the door's documentation.
const LONGEST_GRACE: Duration = Duration::from_secs(5);

/// What should become of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Run,
    /// End it within this time, then remove the object.
    End(Duration),
    /// The object is gone already.
    Forget,
}

impl Order {
    pub(super) fn of(pod: &Pod) -> Self {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        match pod.metadata.deletion_timestamp {
            None => Self::Run,
            Some(_) => {
                Self::End(LONGEST_GRACE.min(Duration::from_secs(grace.try_into().unwrap_or_default())))
            }
        }
    }

    /// Replaces an order that allows the Pod more.
    pub(super) fn replaces(self, current: &mut Self) -> bool {
        let is_new = self > *current;
        if is_new {
            *current = self;
        }
        is_new
    }
}

/// Whether the Pod ran before, in an earlier life of the kubelet.
pub(super) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Runs the Pod until `orders` say that it ends. A failure is printed: the Pod then never gets ready.
pub(super) async fn live(node: Arc<Node>, client: Client, pod: Pod, mut orders: watch::Receiver<Order>) {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let key = (namespace, name);
    if let Err(error) = run(&node, &pods, &pod, &key, &mut orders).await {
        eprintln!("Pod {}/{} on {}: {error:#}", key.0, key.1, node.host.name());
    }
    node.places().remove(&key);
    // An error means that the kubelet ends.
    let _ = orders.wait_for(|&order| order != Order::Run).await;
    if let Err(error) = remove_object(&pods, &pod, &key.1).await {
        eprintln!("Pod {}/{} on {}: {error:#}", key.0, key.1, node.host.name());
    }
}

async fn run(
    node: &Arc<Node>,
    pods: &Api<Pod>,
    pod: &Pod,
    key: &(String, String),
    orders: &mut watch::Receiver<Order>,
) -> Result<()> {
    let is_on_node = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default();
    let network = if is_on_node { None } else { Some(make_network(node).await?) };
    let host = network.as_ref().map_or(&node.host, PodNetwork::host).clone();
    let mut process = start(node, &host, pod, &key.1)?;
    node.places().insert(key.clone(), host.clone());

    tokio::select! {
        result = report(node, pods, pod, host.ipv4().into()) => result?,
        _ = orders.wait_for(|&order| order != Order::Run) => {}
    }
    // An error means that the kubelet ends.
    let _ = orders.wait_for(|&order| order != Order::Run).await;
    end(&mut process, orders).await;
    drop(process);
    spawn_blocking(move || drop(network)).await?;
    Ok(())
}

async fn make_network(node: &Arc<Node>) -> Result<PodNetwork> {
    let (number, address) = node.new_address();
    let host = node.host.clone();
    spawn_blocking(move || PodNetwork::new(&host, &format!("pod-{number}"), address)).await?
}

/// Starts agnhost with the Pod's arguments, and with its name as host name, which agnhost answers with.
fn start(node: &Node, host: &Host, pod: &Pod, name: &str) -> Result<Process> {
    let spec = pod.spec.as_ref().context("a Pod without a spec")?;
    let container = spec.containers.first().context("a Pod without a container")?;
    let hostname = spec.hostname.as_deref().unwrap_or(name);
    let mut arguments: Vec<String> = container.command.clone().unwrap_or_default();
    // The image has its program at /agnhost.
    arguments.retain(|word| word != "/agnhost");
    arguments.extend(container.args.clone().unwrap_or_default());
    if arguments.is_empty() {
        arguments.push("pause".to_owned());
    }
    let mut command = host.command("unshare");
    command
        .args(["--uts", "--", "sh", "-c", r#"echo "$0" > /proc/sys/kernel/hostname && exec "$@""#, hostname])
        .arg(&node.agnhost)
        .args(arguments);
    node.host.spawn(command, &format!("pod-{}", host.name()))
}

/// Reports the Pod as running, then as ready.
async fn report(node: &Node, pods: &Api<Pod>, pod: &Pod, address: IpAddr) -> Result<()> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    for is_ready in [false, true] {
        if is_ready {
            probe::wait_until_ready(pod, address).await?;
        }
        let status = status::running(pod, node.host.ipv4().into(), address, is_ready);
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    }
    Ok(())
}

/// Asks the process to end, waits as long as the order allows, and kills it.
async fn end(process: &mut Process, orders: &mut watch::Receiver<Order>) {
    // Fails only if the process has ended already.
    let _ = process.signal(Signal::TERM);
    let Order::End(grace) = *orders.borrow() else { return };
    let ended =
        wait_until_async(grace, "the end of the process", async || Ok(process.exit_status()?.map(drop)));
    tokio::select! {
        // If it takes longer, it is killed by the caller.
        _ = ended => {}
        _ = orders.wait_for(|&order| order == Order::Forget) => {}
    }
}

async fn remove_object(pods: &Api<Pod>, pod: &Pod, name: &str) -> Result<()> {
    let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
    let now = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
    match pods.delete(name, &now).await {
        // Gone, or another Pod has this name now.
        Err(kube::Error::Api(answer)) if [404, 409].contains(&answer.code) => Ok(()),
        result => result.map(drop).context("cannot remove the object"),
    }
}
