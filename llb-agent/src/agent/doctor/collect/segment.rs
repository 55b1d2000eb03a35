// SPDX-License-Identifier: Apache-2.0
//! Questions to the segments of the links: who has the addresses of the pools, and whether an announcement is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use super::super::facts::{Links, Outcome, Probed, Reached, Source, Trial};
use super::super::policy::policy_of;
use super::super::used::used_by_others;
use crate::addresses::{is_believed, owners};
use crate::config::Config;
use crate::error_chain::ErrorChain;
use crate::model::{Announce, Family, Link, Mac};
use crate::netlink::{Connection, LinkDevice};

/// The most addresses that are asked for. Three probes of 256 addresses are 768 small frames, within 0.3 s.
const MOST_ADDRESSES: usize = 256;
/// A limit, because a range that is in no subnet may have as many addresses as IPv6.
const MOST_LOOKED_AT: usize = 65_536;

/// Asks who has the first addresses of the pools. Without pools, Services may have any free address, so nobody is asked.
pub(super) async fn probe(config: &Config, links: &Links, source: &Source) -> Result<Probed, String> {
    // Hosts of the segment do not use ARP or NDP for routed VIPs.
    if config.policy.announce == Announce::Routed {
        return Ok(Probed::default());
    }
    let used = used_by_others(&links.machine, source);
    let ours: BTreeSet<IpAddr> = links
        .machine
        .links
        .iter()
        .flat_map(|link| link.addresses.iter().map(|known| known.net.addr()))
        .collect();
    let (policy, _) = policy_of(config, source);
    let pools = policy.pools.iter().filter(|pool| !pool.is_routed());
    let all = pools.flat_map(|pool| {
        let ranges = pool.ranges().iter();
        ranges.flat_map(|range| range.addresses().take(MOST_LOOKED_AT)).filter(|one| pool.gives(*one))
    });
    let is_near =
        |address: &IpAddr| alive(links).any(|(_, _, link)| link.prefix_length_for(*address).is_some());
    let mut free = all.filter(|one| is_near(one) && !used.contains_key(one) && !ours.contains(one));
    let wanted: Vec<IpAddr> = free.by_ref().take(MOST_ADDRESSES).collect();
    let mut probed = Probed { is_partial: free.next().is_some(), ..Probed::default() };
    let own = own_macs().await.map_err(text)?;
    for (device, mac, link) in alive(links) {
        let here = |address: &IpAddr| link.prefix_length_for(*address).is_some();
        let addresses: BTreeSet<IpAddr> = wanted.iter().copied().filter(here).collect();
        if addresses.is_empty() {
            continue;
        }
        probed.asked += addresses.len();
        let found: BTreeMap<IpAddr, Mac> =
            owners(device.ifindex, mac, &own, link, &addresses).await.map_err(text)?;
        probed.owners.extend(found);
    }
    Ok(probed)
}

/// Announces an address that nobody has, and finds out whether a neighbour accepts it.
pub(super) async fn try_address(links: &Links, reached: &Reached, address: IpAddr) -> Trial {
    let outcome = tried(links, reached, address).await.unwrap_or_else(|error| Outcome::Failed(text(error)));
    Trial { address, outcome }
}

async fn tried(links: &Links, reached: &Reached, address: IpAddr) -> io::Result<Outcome> {
    let mut own_links = links.machine.links.iter();
    if own_links.any(|link| link.addresses.iter().any(|known| known.net.addr() == address)) {
        return Ok(Outcome::Own);
    }
    let Some((device, mac, link)) =
        alive(links).find(|(_, _, link)| link.prefix_length_for(address).is_some())
    else {
        return Ok(Outcome::NoLink);
    };
    let Some(own) = link.primary_address(Family::of(address)) else { return Ok(Outcome::NoLink) };
    let found = owners(device.ifindex, mac, &own_macs().await?, link, &[address].into()).await?;
    if let Some(mac) = found.get(&address) {
        return Ok(Outcome::Taken(*mac));
    }
    let gateway = Connection::open()?.gateway(device.ifindex, address).await?.map(|(gateway, _)| gateway);
    let nodes = reached.nodes.iter().copied();
    let is_near =
        |ip: &IpAddr| Family::of(*ip) == Family::of(address) && link.prefix_length_for(*ip).is_some();
    let Some(neighbour) = gateway.into_iter().chain(nodes.filter(is_near)).next() else {
        return Ok(Outcome::NoNeighbour);
    };
    let belief = is_believed(device.ifindex, mac, own, address, neighbour).await?;
    Ok(Outcome::Asked(neighbour, belief))
}

/// The links that have a carrier and neighbours, with their addresses.
fn alive(links: &Links) -> impl Iterator<Item = (&LinkDevice, Mac, &Link)> {
    links.reports.iter().filter_map(|report| {
        let device = &report.device;
        let mac = device.neighbour_mac().filter(|_| device.is_running)?;
        let link = links.machine.links.iter().find(|link| link.name == device.name)?;
        Some((device, mac, link))
    })
}

async fn own_macs() -> io::Result<BTreeSet<Mac>> {
    Connection::open()?.macs().await
}

fn text(error: io::Error) -> String {
    ErrorChain(&error).to_string()
}
