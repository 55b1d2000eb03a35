// SPDX-License-Identifier: Apache-2.0
//! All objects of a cluster that llb looks at, and which of their changes matter. Pure but for
//! the locks of the Stores, which the watches fill.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::pools::KnownPools;
use super::ranges::Ranges;
use super::store::{Change, Store};
use crate::model::{ServiceName, Snapshot};
use crate::source::convert::{self, ConvertedNode, ConvertedService, ConvertedSlice};
use crate::source::interest::Interest;

/// A Service: whole if it is ours, else [`convert::reduced`].
#[derive(Clone, PartialEq)]
pub(super) struct KnownService {
    converted: ConvertedService,
    is_ours: bool,
}

pub(super) type Services = Arc<Store<KnownService>>;
pub(super) type Slices = Arc<Store<ConvertedSlice>>;
pub(super) type Nodes = Arc<Store<ConvertedNode>>;

/// The Stores of all watches.
pub(super) struct Objects {
    pub(super) services: Vec<Services>,
    pub(super) slices: Vec<Slices>,
    pub(super) nodes: Nodes,
    pub(super) ranges: Arc<Ranges>,
    /// If the pools are in a ConfigMap, too.
    pub(super) pools: Option<Arc<KnownPools>>,
    needs_nodes: bool,
}

impl Objects {
    /// `watches`: how many watches Services have, and EndpointSlices.
    pub(super) fn new(watches: usize, needs_nodes: bool, pools: Option<Arc<KnownPools>>) -> Self {
        let services: Vec<Services> = (0..watches).map(|_| Arc::new(Store::new(weigh_services))).collect();
        let slices = (0..watches).map(|_| {
            let services = services.clone();
            Arc::new(Store::new(move |before, now| weigh_slices(&services, before, now)))
        });
        let slices = slices.collect();
        let nodes = Arc::new(Store::new(|_, _| Change::Ours));
        Self { services, slices, nodes, ranges: Arc::default(), pools, needs_nodes }
    }

    /// Whether all first lists that are needed have arrived. Does not wait.
    pub(super) fn is_complete(&self) -> bool {
        self.services.iter().all(|store| store.is_complete())
            && self.slices.iter().all(|store| store.is_complete())
            && (!self.needs_nodes || self.nodes.is_complete())
            && self.ranges.is_complete()
            && self.pools.as_ref().is_none_or(|pools| pools.is_complete())
    }

    /// The greatest change since this was called last.
    pub(super) fn take_change(&self) -> Change {
        let services = self.services.iter().map(|store| store.take_change());
        let slices = self.slices.iter().map(|store| store.take_change());
        let pools = self.pools.as_ref().map(|pools| pools.store.take_change()).unwrap_or_default();
        let others = [self.nodes.take_change(), self.ranges.take_change(), pools];
        services.chain(slices).chain(others).max().unwrap_or_default()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let services: Vec<_> = self.services.iter().flat_map(|store| store.all()).collect();
        let mut slices: Vec<_> = self.slices.iter().flat_map(|store| store.all()).collect();
        for slice in &mut slices {
            // What is wrong with the endpoints of others is their matter.
            if !slice.service.as_ref().is_some_and(|service| is_known_as_ours(&self.services, service)) {
                slice.problems.clear();
            }
        }
        let converted = services.iter().map(|known| &known.converted);
        let snapshot = convert::assemble(converted, slices.iter(), self.nodes.all().into_iter());
        let pools = self.pools.as_ref().and_then(|pools| pools.pools());
        Snapshot { service_ranges: self.ranges.all(), pools, ..snapshot }
    }
}

/// What is kept of a Service.
pub(super) fn known_service(object: &Service, interest: &Interest) -> KnownService {
    let converted = convert::service_of(object, interest.foreign_annotations);
    match (interest.is_ours)(&converted.name, &converted.service) {
        true => KnownService { converted, is_ours: true },
        false => KnownService { converted: convert::reduced(&converted), is_ours: false },
    }
}

/// What is kept of an EndpointSlice. It is kept whole, because its Service may become ours.
pub(super) fn known_slice(object: &EndpointSlice) -> ConvertedSlice {
    convert::slice_of(object)
}

/// What is kept of a Node. Its heartbeat changes nothing of it.
pub(super) fn known_node(object: &Node) -> ConvertedNode {
    convert::node_of(object)
}

fn weigh_services(before: Option<&KnownService>, now: Option<&KnownService>) -> Change {
    let is_ours = |known: Option<&KnownService>| known.is_some_and(|known| known.is_ours);
    if is_ours(before) || is_ours(now) { Change::Ours } else { Change::Others }
}

fn weigh_slices(
    services: &[Services],
    before: Option<&ConvertedSlice>,
    now: Option<&ConvertedSlice>,
) -> Change {
    let names = before.iter().chain(&now).filter_map(|slice| slice.service.as_ref());
    let mut ours = names.filter(|name| is_known_as_ours(services, name));
    // If the Service becomes ours later, that is a change of ours, and the next snapshot has its slices.
    if ours.next().is_some() { Change::Ours } else { Change::Others }
}

fn is_known_as_ours(services: &[Services], name: &ServiceName) -> bool {
    services.iter().any(|store| store.is(&name.namespace, &name.name, |known| known.is_ours))
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::source::interest::IsOurs;

    struct Fixture {
        objects: Objects,
        interest: Interest,
    }

    impl Fixture {
        /// A cluster with one Service that is ours, `web`, and one that is not, `db`.
        fn new() -> Self {
            let is_ours: IsOurs = Arc::new(|_, service| service.wants_load_balancer);
            let namespaces = Vec::new();
            let interest = Interest {
                number: 0,
                namespaces,
                foreign_annotations: true,
                needs_nodes: true,
                is_ours,
                pools: None,
            };
            let fixture = Self { objects: Objects::new(1, true, None), interest };
            fixture.service(&service("web", "LoadBalancer", 1));
            fixture.service(&service("db", "ClusterIP", 1));
            fixture.slice(&slice("web", "192.0.2.31"));
            fixture.slice(&slice("db", "192.0.2.32"));
            fixture.node(&node("0"));
            fixture.objects.take_change();
            fixture
        }

        fn service(&self, object: &Value) -> Change {
            let event = Event::Apply(serde_json::from_value(object.clone()).unwrap());
            self.objects.services[0].apply(&event, |object| known_service(object, &self.interest))
        }

        fn slice(&self, object: &Value) -> Change {
            let event = Event::Apply(serde_json::from_value(object.clone()).unwrap());
            self.objects.slices[0].apply(&event, known_slice)
        }

        fn node(&self, object: &Value) -> Change {
            let event = Event::Apply(serde_json::from_value(object.clone()).unwrap());
            self.objects.nodes.apply(&event, known_node)
        }
    }

    fn service(name: &str, kind: &str, revision: u64) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "default", "resourceVersion": revision.to_string()},
            "spec": {"type": kind, "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80, "protocol": "TCP"}]},
        })
    }

    fn slice(service: &str, address: &str) -> Value {
        json!({
            "metadata": {"name": format!("{service}-1"), "namespace": "default",
                         "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        })
    }

    fn node(heartbeat: &str) -> Value {
        json!({
            "metadata": {"name": "node-1", "resourceVersion": heartbeat},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.21"}],
                       "conditions": [{"type": "Ready", "status": "True",
                                       "lastHeartbeatTime": format!("2026-01-01T00:00:0{heartbeat}Z")}]},
        })
    }

    #[test]
    fn a_stream_of_foreign_changes_is_no_change_of_ours() {
        let fixture = Fixture::new();
        for round in 1..9 {
            assert_eq!(fixture.service(&service("db", "ClusterIP", round)), Change::Nothing);
            assert_eq!(fixture.slice(&slice("db", &format!("192.0.2.{round}"))), Change::Others);
            assert_eq!(fixture.node(&node(&round.to_string())), Change::Nothing);
        }
        assert_eq!(fixture.service(&service("web", "LoadBalancer", 2)), Change::Ours);
        assert_eq!(fixture.slice(&slice("web", "192.0.2.33")), Change::Ours);
        assert_eq!(fixture.slice(&slice("web", "192.0.2.33")), Change::Nothing);
    }

    #[test]
    fn a_service_that_becomes_ours_has_the_endpoints_that_were_known_before() {
        let fixture = Fixture::new();
        let name = ServiceName::new("default", "db");
        assert_eq!(fixture.service(&service("db", "LoadBalancer", 2)), Change::Ours);
        let snapshot = fixture.objects.snapshot();
        assert_eq!(snapshot.services[&name].ports.len(), 1);
        assert_eq!(snapshot.endpoints[&name].len(), 1);
        assert_eq!(fixture.service(&service("db", "ClusterIP", 3)), Change::Ours, "it was ours");
        assert_eq!(fixture.objects.snapshot().services[&name].ports.len(), 0);
    }

    /// Whether the objects are complete after each list: ranges, Services, EndpointSlices, Nodes.
    fn complete_after(needs_nodes: bool) -> [bool; 4] {
        let objects = Objects::new(1, needs_nodes, None);
        objects.ranges.set(Vec::new());
        let ranges = objects.is_complete();
        objects.services[0].apply(&Event::Init, |_: &Service| unreachable!("the list is empty"));
        let half = objects.is_complete();
        assert!(!half, "a list has only begun");
        objects.services[0].apply(&Event::InitDone, |_: &Service| unreachable!("the list is empty"));
        let services = objects.is_complete();
        for event in [Event::Init, Event::InitDone] {
            objects.slices[0].apply(&event, known_slice);
        }
        let slices = objects.is_complete();
        for event in [Event::Init, Event::InitDone] {
            objects.nodes.apply(&event, known_node);
        }
        [ranges, services, slices, objects.is_complete()]
    }

    #[test]
    fn nothing_is_complete_before_the_first_whole_lists() {
        assert_eq!(complete_after(true), [false, false, false, true]);
    }

    #[test]
    fn endpoints_are_served_without_nodes() {
        assert_eq!(complete_after(false), [false, false, true, true]);
    }
}
