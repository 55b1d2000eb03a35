// SPDX-License-Identifier: Apache-2.0
//! Compares pools with the subnets of the links, and with addresses that are in use. Pure. It does not check pools by
//! themselves: a configuration with pools that overlap, or with a wrong range, is refused before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::check::CheckId;
use super::super::facts::Source;
use super::super::finding::Finding;
use super::super::policy::policy_of;
use super::super::used::used_by_others;
use crate::config::Config;
use crate::model::{Announce, Facts, Family, Pool};

/// At most this many addresses are named; further ones are only counted.
const MOST: usize = 5;

pub(super) fn judge(config: &Config, machine: &Facts, source: &Source) -> Vec<Finding> {
    if config.policy.has_no_pools() {
        return vec![without_pools(machine)];
    }
    let (policy, problem) = policy_of(config, source);
    let left_out = problem.map(|problem| {
        let action = "correct the ConfigMap, or the pools of the configuration";
        Finding::warning(CheckId::PoolSubnet, problem.message, action)
    });
    if policy.pools.is_empty() {
        let what = "the pools of the ConfigMap are not known";
        let skipped = Finding::skipped(CheckId::PoolSubnet, what, "see the check source");
        return left_out.into_iter().chain([skipped]).collect();
    }
    let used = used_by_others(machine, source);
    let of_pools =
        policy.pools.iter().flat_map(|pool| [subnet(config, pool, machine), reserved(pool, &used)]);
    left_out.into_iter().chain(of_pools).collect()
}

/// Services then get the first link's own address.
fn without_pools(machine: &Facts) -> Finding {
    let Some(first) = machine.links.first() else {
        return Finding::skipped(CheckId::PoolSubnet, "there is no pool and no link", "see the check link");
    };
    let own: Vec<String> = [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| first.primary_address(family))
        .map(|address| address.to_string())
        .collect();
    let name = &first.name;
    if own.is_empty() {
        let what = format!("there is no pool, and {name} has no address that Services could get");
        return Finding::error(
            CheckId::PoolSubnet,
            what,
            format!("give --pool RANGE, or give {name} an address"),
        );
    }
    let what = format!("there is no pool: Services get {} of {name}", own.join(" and "));
    Finding::ok(CheckId::PoolSubnet, what)
}

fn subnet(config: &Config, pool: &Pool, machine: &Facts) -> Finding {
    let name = pool.to_string();
    if config.policy.announce == Announce::Routed {
        return routed(pool, machine).of(name);
    }
    if pool.is_routed() {
        return Finding::ok(CheckId::PoolSubnet, "routers lead clients here (routed=true)").of(name);
    }
    let is_outside = |first: &IpAddr| {
        let mut links = machine.links.iter();
        !links.any(|link| link.prefix_length_for(*first).is_some())
    };
    let outside: Vec<String> = firsts(pool).filter(is_outside).map(|first| first.to_string()).collect();
    let finding = if outside.is_empty() {
        Finding::ok(CheckId::PoolSubnet, "it is in a subnet of a link")
    } else {
        Finding::warning(
            CheckId::PoolSubnet,
            format!("{} is in no subnet of any link", outside.join(", ")),
            "give the link an address of that subnet; or let a router lead the range here, and add +routed=true",
        )
    };
    finding.of(name)
}

/// The first address of each range.
fn firsts(pool: &Pool) -> impl Iterator<Item = IpAddr> {
    pool.ranges().iter().filter_map(|range| range.addresses().next())
}

/// With `--announce routed`: routers ask by ARP or NDP for what is in a subnet of a link, and nobody answers.
fn routed(pool: &Pool, machine: &Facts) -> Finding {
    let mut nets = machine.links.iter().flat_map(|link| {
        link.addresses.iter().filter(|known| !known.ours).map(move |known| (known.net.trunc(), &link.name))
    });
    // Two ranges meet if one of them begins in the other.
    let meets = |net: &IpNet| pool.contains(net.addr()) || firsts(pool).any(|first| net.contains(&first));
    match nets.find(|(net, _)| meets(net)) {
        None => {
            Finding::ok(CheckId::PoolSubnet, "it is in no subnet of a link, so routers lead clients here")
        }
        Some((net, link)) => Finding::warning(
            CheckId::PoolSubnet,
            format!(
                "addresses of it are in {net} of link {link}, and --announce routed does not serve those"
            ),
            "take a pool outside of the subnets of the links, or start llb with --announce l2",
        ),
    }
}

fn reserved(pool: &Pool, used: &BTreeMap<IpAddr, String>) -> Finding {
    let within: Vec<String> = used
        .iter()
        .filter(|(address, _)| pool.contains(**address))
        .map(|(address, whose)| format!("{address} ({whose})"))
        .collect();
    let finding = if within.is_empty() {
        Finding::ok(CheckId::PoolReserved, "no address of it is needed otherwise")
    } else {
        let more = within.len().saturating_sub(MOST);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let list = within.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
        let what = format!("it contains {list}{more}");
        Finding::warning(CheckId::PoolReserved, what, "take these addresses out of the pool")
    };
    finding.of(pool.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::finding::Level;
    use super::super::super::sample::{config, machine_facts};
    use super::*;
    use crate::model::{ClusterPools, Node, Snapshot};

    fn found(flags: &[&str], machine: &Facts, source: &Source) -> Vec<(CheckId, Level)> {
        let findings = judge(&config(flags), machine, source);
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn a_pool_should_be_in_a_subnet_unless_it_is_routed() {
        let subnets = |pool: &str| found(&["--pool", pool], &machine_facts(), &Source::default())[0].1;
        assert_eq!(subnets("192.0.2.100-192.0.2.110"), Level::Ok);
        assert_eq!(subnets("198.51.100.0/28"), Level::Warning);
        assert_eq!(subnets("198.51.100.0/28+routed=true"), Level::Ok);
        assert_eq!(subnets("2001:db8::100-2001:db8::110"), Level::Warning, "no link has IPv6");
    }

    #[test]
    fn with_announce_routed_a_pool_should_be_in_no_subnet() {
        let subnets = |pool: &str| {
            found(&["--announce", "routed", "--pool", pool], &machine_facts(), &Source::default())[0].1
        };
        assert_eq!(subnets("198.51.100.0/28"), Level::Ok);
        assert_eq!(subnets("2001:db8::100-2001:db8::110"), Level::Ok);
        assert_eq!(subnets("192.0.2.100-192.0.2.110"), Level::Warning);
        assert_eq!(subnets("192.0.0.0/16"), Level::Warning, "the subnet is within the pool");
    }

    #[test]
    fn addresses_that_are_needed_are_named_with_their_owner() {
        let node = Node { internal: vec!["192.0.2.31".parse().unwrap()], ..Node::default() };
        let snapshot = Snapshot { nodes: [("node-1".to_owned(), node)].into(), ..Snapshot::default() };
        let source = Source { snapshot: Some(Arc::new(snapshot)), ..Source::default() };
        let config = config(&["--pool", "192.0.2.16-192.0.2.40"]);
        let findings = judge(&config, &machine_facts(), &source);
        assert_eq!(findings[1].level, Level::Warning);
        assert_eq!(
            findings[1].what,
            "it contains 192.0.2.20 (this machine, on eth0), 192.0.2.31 (Node node-1)"
        );
    }

    #[test]
    fn without_a_pool_the_link_needs_an_address() {
        let none = Source::default();
        assert_eq!(found(&[], &machine_facts(), &none), [(CheckId::PoolSubnet, Level::Ok)]);
        let mut bare = machine_facts();
        bare.links[0].addresses.clear();
        assert_eq!(found(&[], &bare, &none), [(CheckId::PoolSubnet, Level::Error)]);
        assert_eq!(found(&[], &Facts::default(), &none), [(CheckId::PoolSubnet, Level::Skipped)]);
    }

    #[test]
    fn pools_of_a_config_map_count_when_they_are_known() {
        let in_map = ["--pool", "192.0.2.100", "--config-map", "llb/pools"];
        let first = [(CheckId::PoolSubnet, Level::Ok), (CheckId::PoolReserved, Level::Ok)];
        assert_eq!(found(&in_map, &machine_facts(), &Source::default()), first);
        assert_eq!(
            found(&in_map[2..], &machine_facts(), &Source::default()),
            [(CheckId::PoolSubnet, Level::Skipped)]
        );
        let of_map = |pool: &str| {
            let pools = ClusterPools { config_map: "llb/pools".to_owned(), pools: vec![pool.to_owned()] };
            let snapshot = Snapshot { pools: Some(pools), ..Snapshot::default() };
            let source = Source { snapshot: Some(Arc::new(snapshot)), ..Source::default() };
            found(&in_map, &machine_facts(), &source)
        };
        assert_eq!(of_map("198.51.100.7")[2], (CheckId::PoolSubnet, Level::Warning));
        assert_eq!(of_map("192.0.2.100")[0], (CheckId::PoolSubnet, Level::Warning), "it is left out");
    }
}
