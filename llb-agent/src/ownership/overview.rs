// SPDX-License-Identifier: Apache-2.0
//! What an agent says about its group: which shares it has and is to have, and their VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use super::marker::holding;
use super::ranks::Ranks;
use crate::model::{Holding, SHARES, Share, State};

/// The group of this box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The name of this box.
    pub member: String,
    /// The names of all boxes, this one too, in order for each share.
    pub ranks: Ranks,
    /// The links in the order of the command line.
    pub links: Vec<String>,
}

/// The shares of a group, as this box sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// The name of the group.
    pub group: String,
    /// The name of this box.
    pub member: String,
    /// All shares of all links.
    pub shares: Vec<ShareOverview>,
}

/// One share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShareOverview {
    /// The link.
    pub link: String,
    /// The share.
    pub share: u8,
    /// keepalived has given it to this box.
    pub here: bool,
    /// The boxes that are to have it, the first one before the others.
    pub order: Vec<String>,
    /// Its VIPs.
    pub vips: BTreeSet<IpAddr>,
}

impl Group {
    /// The VIPs that may be on the links of this box, by the markers on `lo`.
    pub fn holding(&self, markers: &BTreeSet<Ipv4Addr>) -> Holding {
        holding(&self.links, markers)
    }

    /// What is to be said.
    pub fn overview(&self, markers: &BTreeSet<Ipv4Addr>, desired: &State) -> Overview {
        let Holding::Shares(here) = self.holding(markers) else {
            return Overview { group: self.name.clone(), member: self.member.clone(), shares: Vec::new() };
        };
        let mut vips: BTreeMap<Share, BTreeSet<IpAddr>> = BTreeMap::new();
        for key in desired.addresses.keys().chain(desired.elsewhere.keys()) {
            vips.entry(Share::of(&key.link, key.address)).or_default().insert(key.address);
        }
        let all = self.links.iter().flat_map(|link| (0..SHARES).map(move |number| (link, number)));
        let shares = all.map(|(link, number)| {
            let share = Share { link: link.clone(), number };
            ShareOverview {
                here: here.contains(&share),
                order: self.ranks.order(number).to_vec(),
                vips: vips.remove(&share).unwrap_or_default(),
                link: share.link,
                share: number,
            }
        });
        Overview { group: self.name.clone(), member: self.member.clone(), shares: shares.collect() }
    }
}

impl Overview {
    /// How many shares are here, and how many elsewhere.
    pub fn counts(&self) -> (usize, usize) {
        let here = self.shares.iter().filter(|share| share.here).count();
        (here, self.shares.len() - here)
    }
}

impl fmt::Display for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (here, elsewhere) = self.counts();
        let is_due = |share: &&ShareOverview| share.order.first() == Some(&self.member);
        let due = self.shares.iter().filter(is_due).count();
        writeln!(
            f,
            "group {}, this box is {}: {here} shares here, {elsewhere} elsewhere, {due} due here",
            self.group, self.member
        )?;
        for share in &self.shares {
            let place = if share.here { "here" } else { "elsewhere" };
            write!(
                f,
                "{} share {:2}  {place:9}  due at {}",
                share.link,
                share.share,
                share.order.join(", ")
            )?;
            match share.vips.len() {
                0 => writeln!(f, "  no VIP")?,
                _ => {
                    share.vips.iter().try_for_each(|vip| write!(f, "  {vip}"))?;
                    writeln!(f)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::marker::marker;
    use super::*;
    use crate::model::AddressKey;

    #[test]
    fn the_overview_names_each_share_with_its_place_and_vips() {
        let names = ["box-a", "box-b"].map(str::to_owned).into();
        let group = Group {
            name: "edge".to_owned(),
            member: "box-a".to_owned(),
            ranks: Ranks::new("edge", &names),
            links: vec!["eth0".to_owned()],
        };
        let key = |vip: &str| AddressKey { link: "eth0".to_owned(), address: vip.parse().unwrap() };
        let desired = State {
            addresses: [(key("192.0.2.20"), 24)].into(),
            elsewhere: [(key("192.0.2.21"), 24)].into(),
            ..State::default()
        };
        let overview = group.overview(&[marker(0, 4), marker(0, 6)].into(), &desired);
        assert_eq!(overview.counts(), (2, 14));
        let text = overview.to_string();
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some("group edge, this box is box-a: 2 shares here, 14 elsewhere, 8 due here")
        );
        assert_eq!(lines.clone().count(), 16);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(line("eth0 share  4  here ").ends_with("  192.0.2.20"), "{text}");
        assert!(line("eth0 share  5  elsewhere").ends_with("  192.0.2.21"), "{text}");
        assert!(line("eth0 share  6  here ").ends_with("  no VIP"), "{text}");
    }
}
