// SPDX-License-Identifier: Apache-2.0
//! Addresses that something else uses, and what that is. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::facts::Source;
use crate::model::Facts;

/// The addresses that are not free, each with its user.
pub(super) fn used_by_others(machine: &Facts, source: &Source) -> BTreeMap<IpAddr, String> {
    let mut used = BTreeMap::new();
    let nodes = source.snapshot.iter().flat_map(|snapshot| &snapshot.nodes);
    for (name, node) in nodes {
        let addresses = node.internal.iter().chain(&node.external);
        used.extend(addresses.map(|address| (*address, format!("Node {name}"))));
    }
    used.extend(machine.host.reserved.iter().map(|(address, what)| (*address, what.to_string())));
    used.extend(source.api_servers.iter().map(|address| (*address, "the API server".to_owned())));
    for link in &machine.links {
        let own = link.addresses.iter().filter(|known| !known.ours);
        used.extend(own.map(|known| (known.net.addr(), format!("this machine, on {}", link.name))));
    }
    used
}
