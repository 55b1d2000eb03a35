// SPDX-License-Identifier: Apache-2.0
//! Which VIPs of a group are on this box's links now and should not be, or the other way round. It is what
//! `llb-agent share` does when keepalived has moved a share, with or without a running agent.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{AddressKey, Holding, Link};

/// The content of the file `shares`: the links, and the VIPs that this box serves if it owns their shares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The links in the order of the command line, by which markers name them.
    pub links: Vec<String>,
    /// The VIPs on each link, with the length of the prefix.
    pub vips: BTreeMap<String, ShareVips>,
}

/// The VIPs of one link.
pub type ShareVips = BTreeSet<IpNet>;

/// What the file `shares` is to say.
pub fn placement<'a>(links: &[String], vips: impl Iterator<Item = (&'a AddressKey, u8)>) -> Placement {
    let mut placement = Placement { links: links.to_vec(), vips: BTreeMap::new() };
    for (key, prefix_length) in vips {
        if let Ok(net) = IpNet::new(key.address, prefix_length) {
            placement.vips.entry(key.link.clone()).or_default().insert(net);
        }
    }
    placement
}

/// A change of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Correction {
    /// Take it off: another box has it.
    Remove {
        /// The link.
        link: String,
        /// The VIP.
        net: IpNet,
    },
    /// Put it on the link, and announce it.
    Add {
        /// The link.
        link: String,
        /// The VIP.
        net: IpNet,
    },
}

/// What to change, removals first. Every VIP that llb has added is removed if its share is not here, even if the placement
/// does not list it, because the file may be older than the VIP. An address of somebody else is never touched.
pub fn corrections(placement: &Placement, holding: &Holding, links: &[Link]) -> Vec<Correction> {
    let mut all = BTreeSet::new();
    for Link { name, addresses } in links {
        let moved = addresses.iter().filter(|known| known.ours && !holding.has(name, known.net.addr()));
        all.extend(moved.map(|known| Correction::Remove { link: name.clone(), net: known.net }));
    }
    for (name, vips) in &placement.vips {
        let there = links.iter().filter(|link| link.name == *name).flat_map(|link| &link.addresses);
        let there: BTreeSet<_> = there.map(|known| known.net.addr()).collect();
        let missing = vips.iter().filter(|net| holding.has(name, net.addr()) && !there.contains(&net.addr()));
        all.extend(missing.map(|&net| Correction::Add { link: name.clone(), net }));
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::marker::{holding, marker};
    use super::*;
    use crate::model::LinkAddress;

    const VIPS: [&str; 3] = ["192.0.2.20", "2001:db8::14", "192.0.2.21"];

    fn links() -> Vec<String> {
        vec!["eth0".to_owned()]
    }

    fn placed() -> Placement {
        let key = |vip: &str| AddressKey { link: "eth0".to_owned(), address: vip.parse().unwrap() };
        let keys: Vec<(AddressKey, u8)> =
            VIPS.iter().map(|vip| (key(vip), if vip.contains(':') { 64 } else { 24 })).collect();
        placement(&links(), keys.iter().map(|(key, length)| (key, *length)))
    }

    /// The step that markers, the agent or `notify` take, in any order.
    fn step(on_links: &mut [Link], shares: &[u8]) {
        let markers = shares.iter().map(|share| marker(0, *share)).collect();
        let all = corrections(&placed(), &holding(&links(), &markers), on_links);
        let there = &mut on_links[0].addresses;
        for correction in all {
            match correction {
                Correction::Add { net, .. } => there.push(LinkAddress { net, ours: true, primary: false }),
                Correction::Remove { net, .. } => there.retain(|known| known.net != net),
            }
        }
    }

    /// The link with these addresses, of llb or of others.
    fn with(nets: &[&str], ours: bool) -> Vec<Link> {
        let known = |net: &&str| LinkAddress { net: net.parse().unwrap(), ours, primary: false };
        vec![Link { name: "eth0".to_owned(), addresses: nets.iter().map(known).collect() }]
    }

    fn there(on_links: &[Link]) -> Vec<String> {
        on_links[0].addresses.iter().map(|known| known.net.addr().to_string()).collect()
    }

    #[test]
    fn addresses_follow_the_markers_whoever_looks_and_how_often() {
        let mut on_links = with(&[], true);
        step(&mut on_links, &[4]);
        assert_eq!(there(&on_links), ["192.0.2.20", "2001:db8::14"], "both families move together");
        let before = on_links.clone();
        step(&mut on_links, &[4]);
        assert_eq!(on_links, before, "a second look changes nothing");
        step(&mut on_links, &[5]);
        assert_eq!(there(&on_links), ["192.0.2.21"]);
        step(&mut on_links, &[]);
        assert_eq!(there(&on_links), [] as [String; 0]);
    }

    #[test]
    fn a_foreign_address_is_neither_removed_nor_added() {
        let foreign = with(&["192.0.2.20/24"], false);
        let mut on_links = foreign.clone();
        step(&mut on_links, &[]);
        assert_eq!(on_links, foreign);
        let has_four = holding(&links(), &[marker(0, 4)].into());
        let added = corrections(&placed(), &has_four, &on_links);
        assert_eq!(added.len(), 1, "only the IPv6 one: {added:?}");
    }

    #[test]
    fn a_vip_that_the_file_does_not_have_goes_with_its_share_and_is_not_added() {
        let mut on_links = with(&["192.0.2.36/24", "192.0.2.37/24"], true);
        step(&mut on_links, &[5]);
        assert_eq!(there(&on_links), ["192.0.2.37", "192.0.2.21"]);
    }

    #[test]
    fn the_file_is_read_back_as_it_was_written() {
        let text = serde_json::to_string(&placed()).unwrap();
        assert_eq!(serde_json::from_str::<Placement>(&text).unwrap(), placed());
    }
}
