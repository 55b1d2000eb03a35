// SPDX-License-Identifier: Apache-2.0
//! Addresses of pools that other hosts have. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::check::CheckId;
use super::super::facts::{Probed, Source};
use super::super::finding::Finding;
use super::super::policy::policy_of;
use crate::config::Config;
use crate::model::Announce;

pub(super) fn judge(config: &Config, probed: &Result<Probed, String>, source: &Source) -> Vec<Finding> {
    let probed = match probed {
        Ok(probed) => probed,
        Err(error) => {
            let what = format!("nobody could be asked: {error}");
            return vec![Finding::skipped(
                CheckId::AddressConflict,
                what,
                "run doctor as root, or with CAP_NET_RAW",
            )];
        }
    };
    if probed.asked == 0 {
        return nobody_asked(config, source);
    }
    let published = published(source);
    let conflicts = probed.owners.iter().map(|(address, mac)| match published.get(address) {
        Some(service) if config.group.is_some() => Finding::ok(
            CheckId::AddressConflict,
            format!("the host {mac} has it, for {service}; it is probably a box of this group"),
        )
        .of(address.to_string()),
        Some(service) => Finding::warning(
            CheckId::AddressConflict,
            format!("the host {mac} has it, and it is published for {service}"),
            "nothing, if that host is another llb or a Node; otherwise take the address from it",
        )
        .of(address.to_string()),
        None if config.group.is_some() => Finding::warning(
            CheckId::AddressConflict,
            format!("the host {mac} has it: another box of the group, or a foreign host"),
            "nothing, if it is a box of the group; otherwise take the address from that host, or out of the pool",
        )
        .of(address.to_string()),
        None => Finding::error(
            CheckId::AddressConflict,
            format!("the host {mac} has it"),
            "take the address from that host, or take it out of the pool",
        )
        .of(address.to_string()),
    });
    let mut findings: Vec<Finding> = conflicts.collect();
    if findings.is_empty() {
        let asked = probed.asked;
        let part = if probed.is_partial { ", the first ones of the pools" } else { "" };
        let what = format!("no other host has one of the {asked} addresses that were asked for{part}");
        findings.push(Finding::ok(CheckId::AddressConflict, what));
    }
    findings
}

/// Without pools, and with routed ones, nobody on the segment needs to be asked.
fn nobody_asked(config: &Config, source: &Source) -> Vec<Finding> {
    let (policy, _) = policy_of(config, source);
    let is_l2 = config.policy.announce == Announce::L2;
    let skipped = || {
        let what =
            "no address of the pools is free and in a subnet of a link that is up, so nobody was asked";
        Finding::skipped(CheckId::AddressConflict, what, "see the checks pool-subnet and link-carrier")
    };
    (is_l2 && policy.pools.iter().any(|pool| !pool.is_routed())).then(skipped).into_iter().collect()
}

/// The addresses in statuses of Services, with the Service.
fn published(source: &Source) -> BTreeMap<IpAddr, String> {
    let services = source.snapshot.iter().flat_map(|snapshot| &snapshot.services);
    let all = services.flat_map(|(name, service)| {
        service.status.addresses().into_iter().map(move |address| (address, format!("Service {name}")))
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::finding::Level;
    use super::super::super::sample::config;
    use super::*;
    use crate::model::{Mac, PublishedStatus, PublishedVip, Service, ServiceName, Snapshot};

    fn found(probed: Result<Probed, String>, source: &Source) -> Vec<Level> {
        judge(&config(&[]), &probed, source).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn an_address_of_another_host_is_an_error_unless_a_service_has_it() {
        let vip: IpAddr = "192.0.2.100".parse().unwrap();
        let owners = BTreeMap::from([(vip, Mac([2, 0, 0, 0, 0, 7]))]);
        let taken = || Ok(Probed { asked: 3, is_partial: false, owners: owners.clone() });
        assert_eq!(found(taken(), &Source::default()), [Level::Error]);
        let vips = Arc::new([PublishedVip { ip: vip, proxy: true, ports: Vec::new() }]);
        let status = PublishedStatus { vips, ..PublishedStatus::default() };
        let service = Arc::new(Service { status, ..Service::default() });
        let services = [(ServiceName::new("default", "web"), service)].into();
        let snapshot = Some(Arc::new(Snapshot { services, ..Snapshot::default() }));
        assert_eq!(found(taken(), &Source { snapshot, ..Source::default() }), [Level::Warning]);
    }

    #[test]
    fn free_addresses_are_counted_and_silence_is_no_proof_without_rights() {
        let free = Probed { asked: 256, is_partial: true, ..Probed::default() };
        assert_eq!(found(Ok(free), &Source::default()), [Level::Ok]);
        assert_eq!(found(Err("not permitted".to_owned()), &Source::default()), [Level::Skipped]);
        assert_eq!(found(Ok(Probed::default()), &Source::default()), []);
    }

    #[test]
    fn nobody_asked_is_said_if_pools_need_it() {
        let found = |flags: &[&str]| {
            let findings = judge(&config(flags), &Ok(Probed::default()), &Source::default());
            findings.iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(found(&["--pool", "198.51.100.0/28"]), [Level::Skipped]);
        assert_eq!(found(&["--pool", "198.51.100.0/28+routed=true"]), []);
        assert_eq!(found(&["--pool", "198.51.100.0/28", "--announce", "routed"]), []);
    }

    #[test]
    fn in_a_group_another_box_may_have_an_address_that_nobody_has_published() {
        let owners = BTreeMap::from([("192.0.2.100".parse().unwrap(), Mac([2, 0, 0, 0, 0, 7]))]);
        let taken = Ok(Probed { asked: 3, is_partial: false, owners });
        let config = config(&["--pool", "192.0.2.96/28", "--group", "edge", "--member", "a", "--peer", "b"]);
        assert_eq!(judge(&config, &taken, &Source::default())[0].level, Level::Warning);
    }
}
