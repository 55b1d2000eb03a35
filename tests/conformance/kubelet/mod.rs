// SPDX-License-Identifier: Apache-2.0
//! A stand-in for the kubelet of one node, as far as the tests of Kubernetes need it. A Pod is a network namespace with a real
//! agnhost process, whatever its image is.
//!
//! ```text
//!   watch of the node's Pods --> one task for each Pod (`life.rs`): network, process, readiness, end
//!   HTTPS on port 10250 -------> exec: a command in the Pod's namespace (`exec.rs`)
//! ```
//!
//! It differs from a kubelet: there are no images, volumes, environment variables, init containers, limits and liveness
//! probes; a Pod has one container and an IPv4 address only; and a Pod ends at the latest after [`life::LONGEST_GRACE`], because
//! a rolling update of the tests would take ten minutes otherwise. An earlier end is harder for a load balancer, not easier.

mod exec;
mod life;
mod node;
mod probe;
mod status;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use llb_tests::Host;
use tokio::sync::watch;
use tokio::task::spawn_local;

use crate::api;
use life::Order;
use node::Node;
pub(crate) use node::PORT;

/// A kubelet on a thread inside its node's namespace. Dropping it ends the thread and all its Pods.
#[derive(Debug)]
pub(crate) struct Kubelet {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Starts the kubelet of `node`.
    pub(crate) fn start(node: &Host, kubeconfig: &Path, agnhost: &Path, pod_prefix: [u8; 3]) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let node = Arc::new(Node::new(node, agnhost, pod_prefix));
        let thread = api::thread(&node.host.clone(), kubeconfig, stopped, move |client| run(node, client))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed already.
            let _ = thread.join();
        }
    }
}

async fn run(node: Arc<Node>, client: Client) -> Result<()> {
    let server = exec::Server::bind(Arc::clone(&node), client.clone()).await?;
    tokio::try_join!(server.serve(), follow_pods(&node, &client)).map(drop)
}

/// Gives every Pod of the node a task, and tells it what becomes of the Pod.
async fn follow_pods(node: &Arc<Node>, client: &Client) -> Result<()> {
    let mut tasks: BTreeMap<String, watch::Sender<Order>> = BTreeMap::new();
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", node.host.name()));
    let mut events = Box::pin(watcher(Api::<Pod>::all(client.clone()), config).default_backoff());
    while let Some(event) = events.try_next().await.context("the watch of Pods")? {
        match event {
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                let order = Order::of(&pod);
                if let Some(task) = tasks.get(&uid) {
                    task.send_if_modified(|current| order.replaces(current));
                } else if order == Order::Run && !life::has_ended(&pod) {
                    let (sender, orders) = watch::channel(order);
                    spawn_local(life::live(Arc::clone(node), client.clone(), pod, orders));
                    tasks.insert(uid, sender);
                }
            }
            watcher::Event::Delete(pod) => {
                if let Some(task) = tasks.remove(&pod.metadata.uid.unwrap_or_default()) {
                    task.send_replace(Order::Forget);
                }
            }
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }
    Ok(())
}
