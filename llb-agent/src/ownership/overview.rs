// SPDX-License-Identifier: Apache-2.0
//! What an agent says about its group: which shares it has and is to have, and their VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use super::marker::holding;
use super::priority::{READY_IN_FULL, READY_LAST};
use super::ranks::Ranks;
use super::readiness::{Numbers, Orders};
use crate::model::{Holding, Problem, SHARES, Share, State};

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

/// What the group's task, which writes for keepalived, tells the loop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// What is wrong with keepalived.
    pub problems: Vec<Problem>,
    /// The orders for this box, and how ready it is.
    pub standing: Standing,
}

/// The orders for this box, and what keepalived has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The orders.
    pub orders: Orders,
    /// What was written for each share.
    pub said: Numbers,
}

/// How ready a box is for a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Nothing has been written yet.
    Unknown,
    /// It serves all that it should.
    InFull,
    /// It is to have the share only if no box is ready in full.
    Last,
    /// It is to have the share only if no other box is ready at all.
    Not,
}

/// The shares of a group, as this box sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// The name of the group.
    pub group: String,
    /// The name of this box.
    pub member: String,
    /// True after `llb-agent drain`: the other boxes are to have all shares.
    pub drained: bool,
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
    /// How ready this box is for it.
    pub ready: Readiness,
    /// True after `llb-agent move`: the first name of `order` is first because of an order.
    pub moved: bool,
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
    pub fn overview(&self, markers: &BTreeSet<Ipv4Addr>, standing: &Standing, desired: &State) -> Overview {
        let (group, member) = (self.name.clone(), self.member.clone());
        let drained = standing.orders.drained;
        let Holding::Shares(here) = self.holding(markers) else {
            return Overview { group, member, drained, shares: Vec::new() };
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
                ready: readiness(standing.said.get(usize::from(number)).copied().flatten()),
                moved: self.is_moved(number, &standing.orders),
                order: self.order(number, &standing.orders),
                vips: vips.remove(&share).unwrap_or_default(),
                link: share.link,
                share: number,
            }
        });
        Overview { group, member, drained, shares: shares.collect() }
    }

    fn is_moved(&self, share: u8, orders: &Orders) -> bool {
        orders.moved.get(&share).is_some_and(|to| self.ranks.order(share).contains(to))
    }

    /// By rank, but a member to which the share was moved is first.
    fn order(&self, share: u8, orders: &Orders) -> Vec<String> {
        let mut order = self.ranks.order(share).to_vec();
        let moved = orders.moved.get(&share);
        if let Some(place) = order.iter().position(|name| Some(name) == moved) {
            order[..=place].rotate_right(1);
        }
        order
    }
}

fn readiness(said: Option<i32>) -> Readiness {
    match said {
        None => Readiness::Unknown,
        Some(READY_IN_FULL..) => Readiness::InFull,
        Some(READY_LAST..) => Readiness::Last,
        Some(_) => Readiness::Not,
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
        if self.drained {
            writeln!(f, "drained: the other boxes get its shares; `llb-agent undrain` ends it")?;
        }
        for share in &self.shares {
            let place = if share.here { "here" } else { "elsewhere" };
            write!(
                f,
                "{} share {:2}  {place:9}  due at {}",
                share.link,
                share.share,
                share.order.join(", ")
            )?;
            if share.moved {
                write!(f, "  moved")?;
            }
            match share.ready {
                Readiness::Unknown | Readiness::InFull => {}
                Readiness::Last => write!(f, "  this box only if no other one is ready in full")?,
                Readiness::Not => write!(f, "  this box only if no other one is ready")?,
            }
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

    fn group() -> Group {
        let names = ["box-a", "box-b"].map(str::to_owned).into();
        Group {
            name: "edge".to_owned(),
            member: "box-a".to_owned(),
            ranks: Ranks::new("edge", &names),
            links: vec!["eth0".to_owned()],
        }
    }

    #[test]
    fn the_overview_names_each_share_with_its_place_and_vips() {
        let key = |vip: &str| AddressKey { link: "eth0".to_owned(), address: vip.parse().unwrap() };
        let desired = State {
            addresses: [(key("192.0.2.20"), 24)].into(),
            elsewhere: [(key("192.0.2.21"), 24)].into(),
            ..State::default()
        };
        let markers = [marker(0, 4), marker(0, 6)].into();
        let overview = group().overview(&markers, &Standing::default(), &desired);
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

    #[test]
    fn the_overview_says_what_people_have_ordered_and_what_keepalived_has_been_told() {
        let mut said = [Some(READY_IN_FULL); 16];
        (said[0], said[1]) = (Some(READY_LAST), Some(-160));
        let moved = (0..SHARES).map(|share| (share, "box-b".to_owned())).collect();
        let standing = Standing { orders: Orders { drained: true, moved }, said };
        let overview = group().overview(&BTreeSet::new(), &standing, &State::default());
        let text = overview.to_string();
        assert!(text.lines().nth(1).unwrap().starts_with("drained: "), "{text}");
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(line("eth0 share  0").contains("only if no other one is ready in full"), "{text}");
        assert!(line("eth0 share  1").contains("only if no other one is ready  no VIP"), "{text}");
        assert!(line("eth0 share  2").ends_with("due at box-b, box-a  moved  no VIP"), "{text}");
        assert!(overview.shares.iter().all(|share| share.order == ["box-b", "box-a"]), "{text}");
    }
}
