// SPDX-License-Identifier: Apache-2.0
//! Which addresses a Service may have: those that the operator has opened to
//! it, and none that somebody needs.
//!
//! An address that is put on a link is announced, and Nodes send their Pods'
//! traffic for a published VIP to llb. So whoever can have any address can take
//! over the traffic to it (CVE-2020-8554 describes the same for `externalIPs`).
//! Services of many tenants come from one API; the command line is the operator's.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use super::inputs::Inputs;
use crate::config::Policy;
use crate::model::{Node, Problem, ProblemReason, ReservedFor, Service, ServiceName, is_usable_vip};

/// Answers for one set of inputs; addresses in use are collected once.
pub(super) struct Permissions<'a> {
    inputs: Inputs<'a>,
    users: HashMap<IpAddr, User<'a>>,
    endpoints: HashMap<IpAddr, &'a ServiceName>,
}

/// Who uses an address, if llb must not take it.
enum User<'a> {
    Host(&'a ReservedFor),
    Node(&'a str),
    ClusterIp(&'a ServiceName),
}

impl fmt::Display for User<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(what) => what.fmt(f),
            Self::Node(name) => write!(f, "the address of Node {name}"),
            Self::ClusterIp(name) => write!(f, "the ClusterIP of Service {name}"),
        }
    }
}

impl<'a> Permissions<'a> {
    pub(super) fn new(inputs: Inputs<'a>) -> Self {
        let snapshot = inputs.snapshot;
        let endpoints = snapshot
            .endpoints
            .iter()
            .flat_map(|(name, endpoints)| endpoints.iter().map(move |endpoint| (endpoint.address, name)));
        let cluster_ips = snapshot.services.iter().flat_map(|(name, service)| {
            service.cluster_ips.iter().map(move |&address| (address, User::ClusterIp(name)))
        });
        let nodes = snapshot.nodes.iter().flat_map(|(name, node)| {
            node.internal.iter().chain(&node.external).map(move |&address| (address, User::Node(name)))
        });
        let host = inputs.facts.host.reserved.iter().map(|(&address, what)| (address, User::Host(what)));
        // Of several users of one address the last one is named.
        let users = cluster_ips.chain(nodes).chain(host).collect();
        Self { inputs, users, endpoints: endpoints.collect() }
    }

    /// Whether a Service may ask for `vip`.
    ///
    /// # Errors
    /// The reason, and what to do instead.
    pub(super) fn check(&self, name: &ServiceName, service: &Service, vip: IpAddr) -> Result<(), Problem> {
        if let Some(what) = self.unfit(vip) {
            let message = format!("it asks for {vip}, but that is {what}; ask for another address");
            return Err(Problem::of_service(name, ProblemReason::AddressNotAllowed, message));
        }
        if let Some(other) = self.rests_from(name, vip) {
            let message = format!(
                "it asks for {vip}, which Service {other} had until a moment ago; it is given when clients of that Service have noticed"
            );
            return Err(Problem::of_service(name, ProblemReason::AddressResting, message));
        }
        let policy = self.inputs.policy;
        if let Some(pool) = policy.pools.iter().find(|pool| pool.contains(vip)) {
            let Some(why) = pool.why_closed(name, service) else { return Ok(()) };
            let message =
                format!("it asks for {vip}, but --pool {pool} is for {why}; ask for another address");
            return Err(Problem::of_service(name, ProblemReason::PoolNotAllowed, message));
        }
        if policy.allow_vips.iter().any(|range| range.contains(vip)) {
            return Ok(());
        }
        let links = &self.inputs.facts.links;
        let what = if !policy.has_no_pools() {
            "in no --pool of this llb".to_owned()
        } else if !links.iter().any(|link| link.prefix_length_for(vip).is_some()) {
            "in no subnet of a --linkdevice".to_owned()
        } else if let Some(other) = self.endpoints.get(&vip) {
            // Only here: tenants write EndpointSlices, so a slice must not close what the
            // operator has opened, nor take a VIP from a Service that has it.
            format!("an endpoint of Service {other}")
        } else {
            return Ok(());
        };
        let message = format!(
            "it asks for {vip}, which is {what}; ask for another address, or let the operator open this one with --allow-vips"
        );
        Err(Problem::of_service(name, ProblemReason::AddressNotAllowed, message))
    }

    /// Says that a Service keeps VIPs that llb would not give it now: a pool has shrunk, or is gone. Without any
    /// pool it can't be told: the VIP may be one that the Service has asked for before.
    pub(super) fn outside_of_pools(
        &self,
        name: &ServiceName,
        service: &Service,
        kept: &[IpAddr],
    ) -> Option<Problem> {
        if self.inputs.policy.has_no_pools() {
            return None;
        }
        let whys: Vec<String> =
            kept.iter().filter_map(|&vip| self.why_outside_of_pools(name, service, vip)).collect();
        (!whys.is_empty()).then(|| {
            let message = format!(
                "its VIP {} any more; the Service keeps it until it is deleted; open the address to it again, or move the \
                 Service with the annotation llb.dev/vips",
                whys.join(", and its VIP ")
            );
            Problem::of_service(name, ProblemReason::OutsidePools, message)
        })
    }

    fn why_outside_of_pools(&self, name: &ServiceName, service: &Service, vip: IpAddr) -> Option<String> {
        let Policy { pools, allow_vips, .. } = self.inputs.policy;
        if allow_vips.iter().any(|range| range.contains(vip)) {
            return None;
        }
        match pools.iter().find(|pool| pool.contains(vip)) {
            None => Some(format!("{vip} is in no --pool")),
            Some(pool) => {
                Some(format!("{vip} is of --pool {pool}, which is for {}", pool.why_closed(name, service)?))
            }
        }
    }

    /// The other Service that had the address until a moment ago.
    pub(super) fn rests_from(&self, name: &ServiceName, vip: IpAddr) -> Option<&'a ServiceName> {
        self.inputs.resting.get(&vip).filter(|former| *former != name)
    }

    /// What an address is that llb must not put on a link, whoever asks.
    pub(super) fn unfit(&self, vip: IpAddr) -> Option<String> {
        if let Err(what) = is_usable_vip(vip) {
            return Some(what.to_owned());
        }
        let links = &self.inputs.facts.links;
        // The machine's own address is served where it is, also where the machine is a Node.
        if links.iter().any(|link| link.has_foreign(vip)) {
            return None;
        }
        if let Some(user) = self.users.get(&vip) {
            return Some(user.to_string());
        }
        if let Some(range) = self.inputs.snapshot.service_ranges.iter().find(|range| range.contains(&vip)) {
            return Some(format!("in {range}, from which the cluster takes ClusterIPs"));
        }
        let has_pod = |node: &Node| node.pod_ranges.iter().any(|range| range.contains(&vip));
        if let Some((name, _)) = self.inputs.snapshot.nodes.iter().find(|(_, node)| has_pod(node)) {
            return Some(format!("an address of the Pods of Node {name}"));
        }
        let mut nets =
            links.iter().flat_map(|link| &link.addresses).filter(|known| !known.ours).map(|known| known.net);
        let net = nets.find(|net| {
            let has_both_ends = vip.is_ipv4() && net.prefix_len() < 31;
            has_both_ends && (net.network() == vip || net.broadcast() == vip)
        })?;
        Some(format!("the network or broadcast address of {}", net.trunc()))
    }
}
