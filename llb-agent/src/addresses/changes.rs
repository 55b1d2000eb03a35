// SPDX-License-Identifier: Apache-2.0
//! What others changed on the links and their addresses between two
//! observations. It is logged here; the caller reacts to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{AddressKey, Link, Mac};
use crate::netlink::LinkDevice;

/// The links at one moment, by name.
pub(super) type Seen = BTreeMap<String, SeenLink>;

/// The parts of a link whose changes are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenLink {
    index: u32,
    mac: Option<Mac>,
    /// It is up and has a carrier.
    running: bool,
    /// The host's own primary addresses, with their prefix lengths.
    own: BTreeSet<IpNet>,
    vips: BTreeSet<IpAddr>,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The link was removed or renamed.
    Gone { link: String },
    /// A link with that name exists (again).
    Back { link: String },
    /// The link is down or has no carrier.
    Down { link: String },
    /// The link is up and has a carrier again.
    Up { link: String },
    /// The link has another MAC.
    Mac { link: String },
    /// The host's own addresses, or their prefix lengths, changed.
    Own { link: String, now: BTreeSet<IpNet> },
    /// A VIP was removed, and not by llb.
    Lost { key: AddressKey },
}

impl SeenLink {
    /// Picks these parts out of an observed link.
    pub(super) fn new(link: &Link, index: u32, mac: Option<Mac>, running: bool) -> Self {
        let (ours, foreign): (Vec<_>, Vec<_>) = link.addresses.iter().partition(|known| known.ours);
        Self {
            index,
            mac,
            running,
            own: foreign.into_iter().filter(|known| known.primary).map(|known| known.net).collect(),
            vips: ours.into_iter().map(|known| known.net.addr()).collect(),
        }
    }

    /// llb removes this VIP itself, so that it will not count as lost.
    pub(super) fn forget(&mut self, vip: IpAddr) {
        self.vips.remove(&vip);
    }
}

/// Replaces what was `seen` last, and logs what others changed since then. In a group, `llb-agent share` may have
/// taken VIPs off their links.
pub(super) fn follow(
    seen: &mut Option<Seen>,
    present: &[LinkDevice],
    links: &[Link],
    in_group: bool,
) -> Vec<Change> {
    let now = present.iter().zip(links).map(|(device, link)| {
        let (mac, running) = (device.neighbour_mac(), device.is_running);
        (link.name.clone(), SeenLink::new(link, device.ifindex, mac, running))
    });
    let now: Seen = now.collect();
    let changes = seen.as_ref().map(|before| between(before, &now)).unwrap_or_default();
    for change in &changes {
        match change {
            Change::Lost { key } if in_group => tracing::debug!(address = %key, "not on its link any more"),
            _ => tracing::warn!("{change}"),
        }
    }
    *seen = Some(now);
    changes
}

/// What changed between two observations.
fn between(before: &Seen, now: &Seen) -> Vec<Change> {
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    let mut changes: Vec<Change> = gone.map(|link| Change::Gone { link: link.clone() }).collect();
    for (name, new) in now {
        let link = name.clone();
        let Some(old) = before.get(name).filter(|old| old.index == new.index) else {
            changes.push(Change::Back { link });
            continue;
        };
        match (old.running, new.running) {
            (true, false) => changes.push(Change::Down { link: link.clone() }),
            (false, true) => changes.push(Change::Up { link: link.clone() }),
            _ if old.mac != new.mac => changes.push(Change::Mac { link: link.clone() }),
            _ => {}
        }
        if old.own != new.own {
            changes.push(Change::Own { link, now: new.own.clone() });
        }
        let lost = old.vips.difference(&new.vips);
        changes.extend(lost.map(|&address| Change::Lost { key: AddressKey { link: name.clone(), address } }));
    }
    changes
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone { link } => write!(f, "link {link} is gone; its VIPs are put back when it returns"),
            Self::Back { link } => write!(f, "link {link} exists now; its VIPs are put on it and announced"),
            Self::Down { link } => write!(f, "link {link} went down or lost its carrier"),
            Self::Up { link } => {
                write!(f, "link {link} is up again; its VIPs are probed for, then announced")
            }
            Self::Mac { link } => write!(f, "link {link} has another MAC; its VIPs are announced again"),
            Self::Own { link, now } => {
                write!(f, "link {link} has other addresses of its own:")?;
                now.iter().try_for_each(|net| write!(f, " {net}"))?;
                write!(f, "; its VIPs are placed again and announced")
            }
            Self::Lost { key } => write!(f, "VIP {key} was removed, but not by llb; it is put back"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LinkAddress;

    fn seen(index: u32, running: bool, own: &[&str], vips: &[&str]) -> Seen {
        let address = |net: &&str, ours| LinkAddress { net: net.parse().unwrap(), ours, primary: !ours };
        let own = own.iter().map(|net| address(net, false));
        let addresses = own.chain(vips.iter().map(|net| address(net, true))).collect();
        let link = Link { name: "eth0".to_owned(), addresses };
        [("eth0".to_owned(), SeenLink::new(&link, index, Some(Mac([2; 6])), running))].into()
    }

    #[test]
    fn each_kind_of_change_is_recognised() {
        let (own, vips) = (["192.0.2.9/24"], ["192.0.2.5/24"]);
        let usual = seen(2, true, &own, &vips);
        let link = "eth0".to_owned();
        let key = AddressKey { link: link.clone(), address: "192.0.2.5".parse().unwrap() };
        assert_eq!(between(&usual, &usual), []);
        assert_eq!(between(&usual, &Seen::new()), [Change::Gone { link: link.clone() }]);
        assert_eq!(between(&usual, &seen(3, true, &own, &[])), [Change::Back { link: link.clone() }]);
        assert_eq!(between(&usual, &seen(2, false, &own, &vips)), [Change::Down { link: link.clone() }]);
        assert_eq!(between(&seen(2, false, &own, &vips), &usual), [Change::Up { link: link.clone() }]);
        let renumbered = seen(2, true, &["198.51.100.9/24"], &[]);
        let now = ["198.51.100.9/24".parse().unwrap()].into();
        assert_eq!(between(&usual, &renumbered), [Change::Own { link, now }, Change::Lost { key }]);
        let mut removed = usual.clone();
        removed.get_mut("eth0").unwrap().forget("192.0.2.5".parse().unwrap());
        assert_eq!(between(&removed, &seen(2, true, &own, &[])), []);
        assert_eq!(
            between(&usual, &seen(2, true, &own, &["192.0.2.5/32"])),
            [],
            "llb itself changed the prefix length"
        );
    }
}
