// SPDX-License-Identifier: Apache-2.0
//! Addresses of pools that other hosts have. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::check::CheckId;
use super::super::facts::{Probed, Source};
use super::super::finding::Finding;
use crate::config::Config;

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
        return Vec::new();
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
}
