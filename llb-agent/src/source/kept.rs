// SPDX-License-Identifier: Apache-2.0
//! Which part of a snapshot is saved, and whether it has changed. Pure.

use std::sync::Arc;

use crate::model::{Service, ServiceName, Snapshot};

/// Leaves out Services that have no published VIP and ask for none, and the endpoints of Services that
/// others serve. An agent that starts from the file would give such a Service a VIP. That could differ from
/// the VIP that it got between the last write and the crash.
pub(super) fn to_save(snapshot: &Snapshot) -> Snapshot {
    let mut kept = snapshot.clone();
    kept.services.retain(|_, service| {
        !service.wants_load_balancer || !service.status.vips.is_empty() || !service.requested_vips.is_empty()
    });
    let services = &kept.services;
    kept.endpoints.retain(|name, _| services.get(name).is_some_and(|service| service.wants_load_balancer));
    kept
}

/// Whether an agent that starts from the one snapshot would serve the same as one that starts from the other.
/// `is_ours` tells which Services it serves.
pub(super) fn serves_the_same(
    one: &Snapshot,
    other: &Snapshot,
    is_ours: &dyn Fn(&ServiceName, &Service) -> bool,
) -> bool {
    let ours = |snapshot: &'_ Snapshot| -> Vec<(ServiceName, Arc<Service>)> {
        let all = snapshot.services.iter().filter(|(name, service)| is_ours(name, service));
        all.map(|(name, service)| (name.clone(), service.clone())).collect()
    };
    let (ours_of_one, ours_of_other) = (ours(one), ours(other));
    ours_of_one.len() == ours_of_other.len()
        && one.nodes == other.nodes
        && one.service_ranges == other.service_ranges
        && one.pools == other.pools
        && ours_of_one.iter().zip(&ours_of_other).all(|((name, service), (other_name, other_service))| {
            name == other_name
                && is_the_same(service, other_service)
                && one.endpoints.get(name) == other.endpoints.get(name)
        })
}

/// Whether only the revision differs, if anything. Every write of anybody changes that.
fn is_the_same(one: &Arc<Service>, other: &Arc<Service>) -> bool {
    Arc::ptr_eq(one, other) || Service { revision: other.revision.clone(), ..(**one).clone() } == **other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PublishedStatus, PublishedVip};

    fn service(vips: &[&str], requested: &[&str]) -> Service {
        Service {
            wants_load_balancer: true,
            requested_vips: requested.iter().map(|vip| vip.parse().unwrap()).collect(),
            status: PublishedStatus {
                vips: vips
                    .iter()
                    .map(|vip| PublishedVip { ip: vip.parse().unwrap(), proxy: true, ports: Vec::new() })
                    .collect(),
                ..PublishedStatus::default()
            },
            ..Service::default()
        }
    }

    fn snapshot(services: [(&str, Service); 4]) -> Snapshot {
        let mut all = Snapshot::default();
        for (name, service) in services {
            all.services.insert(ServiceName::new("default", name), service.into());
            all.endpoints.insert(ServiceName::new("default", name), [].into());
        }
        all
    }

    fn all() -> Snapshot {
        snapshot([
            ("published", service(&["192.0.2.1"], &[])),
            ("asks", service(&[], &["192.0.2.2"])),
            ("new", service(&[], &[])),
            ("other", Service::default()),
        ])
    }

    #[test]
    fn a_service_without_a_published_vip_is_not_saved() {
        let names = |kept: Vec<ServiceName>| -> Vec<String> {
            kept.into_iter().map(|name| name.name.to_string()).collect()
        };
        let kept = to_save(&all());
        assert_eq!(names(kept.services.into_keys().collect()), ["asks", "other", "published"]);
        assert_eq!(names(kept.endpoints.into_keys().collect()), ["asks", "published"]);
    }

    #[test]
    fn only_what_is_served_makes_a_difference() {
        let is_ours = |_: &ServiceName, service: &Service| service.wants_load_balancer;
        let (before, name) = (all(), |name| ServiceName::new("default", name));
        let same = |now: &Snapshot| serves_the_same(&before, now, &is_ours);
        assert!(same(&before));
        let mut now = all();
        let newer = Service { revision: "2".to_owned(), ..service(&["192.0.2.1"], &[]) };
        now.services.insert(name("published"), newer.into());
        let foreign = Service { cluster_ips: vec!["10.96.0.9".parse().unwrap()], ..Service::default() };
        now.services.insert(name("other"), foreign.into());
        now.endpoints.remove(&name("other"));
        assert!(same(&now), "a revision, and a Service of others");
        now.services.insert(name("published"), service(&["192.0.2.3"], &[]).into());
        assert!(!same(&now), "another VIP");
        let mut now = all();
        now.endpoints.remove(&name("published"));
        assert!(!same(&now), "endpoints");
        let mut now = all();
        now.nodes.insert("node-1".to_owned(), crate::model::Node::default());
        assert!(!same(&now), "a Node");
    }
}
