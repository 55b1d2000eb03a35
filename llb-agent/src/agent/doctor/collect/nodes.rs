// SPDX-License-Identifier: Apache-2.0
//! Connects to Nodes by TCP, and closes at once.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use tokio::net::TcpStream;

use super::super::facts::{Answer, Reached, Source};
use crate::config::{BackendMode, Config};
use crate::desired::{is_ours, usable_nodes};
use crate::model::{Protocol, Snapshot, TrafficPolicy};

/// The most addresses of Nodes that are asked, and how many at one time.
const MOST_NODES: usize = 64;
const AT_ONCE: usize = 16;
/// Long enough for one SYN that is lost.
const LIMIT: Duration = Duration::from_millis(1500);
/// The port of the kubelet, which every Node has.
const KUBELET: u16 = 10_250;

pub(super) async fn reach(config: &Config, source: &Source) -> Reached {
    let Some(snapshot) = &source.snapshot else { return Reached::default() };
    if config.policy.backends == BackendMode::Endpoints {
        return Reached::default();
    }
    let service = node_port(config, snapshot);
    let port = service.as_ref().map_or(KUBELET, |(_, port)| *port);
    let nodes = usable_nodes(snapshot, &config.policy);
    let left_out = nodes.len().saturating_sub(MOST_NODES);
    let questions = nodes.into_iter().take(MOST_NODES).map(|(name, address)| async move {
        let address = SocketAddr::new(address, port);
        (name, address, ask(address).await)
    });
    let answers = futures::stream::iter(questions).buffered(AT_ONCE).collect().await;
    Reached { service: service.map(|(name, _)| name), answers, left_out }
}

/// A nodePort that every Node should serve. One of a Service with ready endpoints comes first: kube-proxy refuses
/// connections to the others.
fn node_port(config: &Config, snapshot: &Snapshot) -> Option<(String, u16)> {
    let ours = snapshot.services.iter().filter(|(name, service)| {
        is_ours(&config.policy, name, service) && service.traffic_policy == TrafficPolicy::Cluster
    });
    let ports = ours.filter_map(|(name, service)| {
        let tcp = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let port = tcp.filter_map(|port| port.node_port).next()?;
        let endpoints = snapshot.endpoints.get(name);
        let is_ready = endpoints.is_some_and(|all| all.iter().any(|endpoint| endpoint.ready));
        Some((is_ready, name.to_string(), port.get()))
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort_by_key(|(is_ready, ..)| !is_ready);
    ports.into_iter().next().map(|(_, name, port)| (name, port))
}

async fn ask(address: SocketAddr) -> Answer {
    match tokio::time::timeout(LIMIT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Answer::Accepted,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Refused,
        Ok(Err(_)) | Err(_) => Answer::Silent,
    }
}
