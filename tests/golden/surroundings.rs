// SPDX-License-Identifier: Apache-2.0
//! The sections of a case that say where llb runs: flags, links, what the machine needs, and health checks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use llb_agent::config::{Cli, Invocation, Policy, pools_of};
use llb_agent::model::{
    Check, ClusterPools, Failure, HealthCheck, Holding, Host, Link, LinkAddress, ReservedFor, Share, Verdict,
    Verdicts,
};

pub(crate) fn policy(flags: &str) -> Policy {
    let args: Vec<&str> = ["llb-agent", "--linkdevice", "eth0", "--manifests", "."]
        .into_iter()
        .chain(flags.split_whitespace())
        .collect();
    match Cli::of(&args).unwrap() {
        Invocation::Serve(configured) => configured.config.policy,
        _ => panic!("a case serves"),
    }
}

/// The ConfigMap that has the pools of a section `config-map`.
pub(crate) const CONFIG_MAP: &str = "llb/pools";

/// Follows a section `config-map` as the source follows a ConfigMap: pools without mistakes stay. Returns the mistakes.
pub(crate) fn follow_pools(text: &str, known: &mut Option<ClusterPools>) -> Option<String> {
    match pools_of(text, "llb.toml") {
        Ok(pools) => {
            *known = Some(ClusterPools { config_map: CONFIG_MAP.to_owned(), pools });
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Lines of `api|proxy|gateway|resolver ADDRESS`, `other-link|peer NAME ADDRESS`, `ephemeral-ports FIRST-LAST`, and
/// `unrouted ADDRESS` for an address to which there is no route. `cluster-ips RANGE` is for [`service_ranges`], `share` and
/// `withdrawn` for [`holding`].
pub(crate) fn host(text: &str) -> (Host, BTreeSet<IpAddr>) {
    let (mut host, mut unrouted) = (Host::default(), BTreeSet::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (address, what) = match words[..] {
            ["api", address] => (address, ReservedFor::ApiServer),
            ["proxy", address] => (address, ReservedFor::ApiProxy),
            ["cluster-ips", _] | ["share", ..] | ["withdrawn"] => continue,
            ["gateway", address] => (address, ReservedFor::Gateway),
            ["resolver", address] => (address, ReservedFor::Resolver),
            ["peer", name, address] => (address, ReservedFor::Peer(name.to_owned())),
            ["other-link", name, address] => (address, ReservedFor::Link(name.to_owned())),
            ["ephemeral-ports", range] => {
                let (first, last) = range.split_once('-').unwrap();
                host.ephemeral_ports = Some(first.parse().unwrap()..=last.parse().unwrap());
                continue;
            }
            ["unrouted", address] => {
                unrouted.insert(address.parse().unwrap());
                continue;
            }
            _ => panic!("unknown line in host: {line}"),
        };
        host.reserved.insert(address.parse().unwrap(), what);
    }
    (host, unrouted)
}

/// The VIPs that may be on the links, from the lines `share LINK NUMBER` of a host: the box of a group. Without such
/// lines all may be, and none with a line `withdrawn`.
pub(crate) fn holding(text: &str) -> Holding {
    let share = |line: &str| {
        let (link, number) = line.strip_prefix("share ")?.split_once(' ')?;
        Some(Share { link: link.to_owned(), number: number.parse().unwrap() })
    };
    let shares: BTreeSet<Share> = text.lines().filter_map(share).collect();
    match shares.is_empty() {
        _ if text.lines().any(|line| line == "withdrawn") => Holding::Nothing,
        true => Holding::All,
        false => Holding::Shares(shares),
    }
}

/// The ranges of ClusterIPs, which an API server would tell, from the lines `cluster-ips RANGE` of a host.
pub(crate) fn service_ranges(text: &str) -> Vec<IpNet> {
    text.lines().filter_map(|line| line.strip_prefix("cluster-ips ")?.parse().ok()).collect()
}

/// Lines of `ADDRESS:PORT tcp|http:/PATH healthy|no-connection|no-answer|STATUS`.
pub(crate) fn verdicts(text: &str) -> Verdicts {
    let verdict = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, how, result] = words[..] else { panic!("unknown line in health: {line}") };
        let how = match how.strip_prefix("http:") {
            Some(path) => HealthCheck::Http(path.into()),
            None => HealthCheck::Tcp,
        };
        let verdict = match result {
            "healthy" => Verdict::Healthy,
            "no-connection" => Verdict::Unhealthy(Failure::NoConnection),
            "no-answer" => Verdict::Unhealthy(Failure::NoAnswer),
            status => Verdict::Unhealthy(Failure::Status(status.parse().unwrap())),
        };
        (Check { address: address.parse().unwrap(), how }, verdict)
    };
    text.lines().map(verdict).collect()
}

/// Lines of `NAME ADDRESS/BITS`; the first address of a family is the primary one.
pub(crate) fn links(text: &str) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    for line in text.lines() {
        let (name, net) = line.split_once(' ').unwrap();
        let address = LinkAddress { net: net.parse().unwrap(), ours: false, primary: true };
        match links.iter_mut().find(|link| link.name == name) {
            Some(link) => link.addresses.push(address),
            None => links.push(Link { name: name.to_owned(), addresses: vec![address] }),
        }
    }
    links
}
