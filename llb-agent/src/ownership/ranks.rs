// SPDX-License-Identifier: Apache-2.0
//! Who is to have which share, and who takes it after whom: bounded-load rendezvous hashing.
//!
//! For each share, all members are in the order of a hash of member and share. Rank 0 is the first of them
//! that may still take a share: with K shares and N members, K mod N members may take one more than the
//! others, so no two numbers differ by more than 1. The others keep the order of the hash: the shares of a
//! box that dies spread over all others, and a member that comes or goes changes few other orders.

use std::collections::{BTreeMap, BTreeSet};

use llb_common::hash::mix;

use crate::model::SHARES;

/// More members do not fit between the priorities that keepalived knows (`configuration.rs`).
pub const MAX_MEMBERS: usize = 8;

/// The members of a group in order, for each share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    orders: Vec<Vec<String>>,
}

impl Ranks {
    /// The same on every box that has the same names. At least one member.
    pub fn new(group: &str, members: &BTreeSet<String>) -> Self {
        let count = members.len().max(1);
        let (least, mut extra) = (usize::from(SHARES) / count, usize::from(SHARES) % count);
        let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
        let mut orders = Vec::new();
        for share in 0..SHARES {
            let mut order: Vec<&str> = members.iter().map(String::as_str).collect();
            order.sort_by_key(|member| (std::cmp::Reverse(hash(group, member, share)), *member));
            let load = |member: &&str| loads.get(*member).copied().unwrap_or(0);
            let may_take = |member: &&str| load(member) < least || (load(member) == least && extra > 0);
            if let Some(first) = order.iter().position(may_take) {
                let first = order.remove(first);
                extra -= usize::from(load(&first) == least);
                *loads.entry(first).or_default() += 1;
                order.insert(0, first);
            }
            orders.push(order.into_iter().map(str::to_owned).collect());
        }
        Self { orders }
    }

    /// The members for a share: the first one is to have it, the next one takes it if that one dies.
    pub fn order(&self, share: u8) -> &[String] {
        self.orders.get(usize::from(share)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The place of a member for a share; 0: it is to have it.
    pub fn rank(&self, member: &str, share: u8) -> Option<usize> {
        self.order(share).iter().position(|name| name == member)
    }
}

/// It has no secret: who may name members may also choose which shares they get.
fn hash(group: &str, member: &str, share: u8) -> u64 {
    // A length before each text, so that no two lists of texts look alike.
    let fold = |seed, text: &str| {
        text.bytes().fold(mix(seed ^ text.len() as u64), |hash, byte| mix(hash ^ u64::from(byte)))
    };
    mix(fold(fold(0, group), member) ^ u64::from(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize, world: usize) -> BTreeSet<String> {
        (0..count).map(|number| format!("box-{world}-{number}")).collect()
    }

    fn ranks(members: &BTreeSet<String>) -> Ranks {
        Ranks::new("edge", members)
    }

    fn owned(ranks: &Ranks, member: &str) -> usize {
        (0..SHARES).filter(|share| ranks.rank(member, *share) == Some(0)).count()
    }

    #[test]
    fn no_member_has_two_shares_more_than_another() {
        for world in 0..200 {
            for count in 1..=MAX_MEMBERS {
                let members = names(count, world);
                let ranks = ranks(&members);
                let loads: Vec<usize> = members.iter().map(|member| owned(&ranks, member)).collect();
                let (most, least) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
                assert!(most - least <= 1, "{loads:?}");
                assert_eq!(loads.iter().sum::<usize>(), usize::from(SHARES));
            }
        }
    }

    #[test]
    fn every_member_has_one_rank_for_each_share() {
        let members = names(5, 1);
        let ranks = ranks(&members);
        for share in 0..SHARES {
            let order: BTreeSet<String> = ranks.order(share).iter().cloned().collect();
            assert_eq!((order, ranks.order(share).len()), (members.clone(), 5));
        }
        assert_eq!(ranks.rank("nobody", 0), None);
        assert_eq!(ranks.order(SHARES), [] as [String; 0]);
    }

    #[test]
    fn the_shares_of_a_dead_member_spread_over_the_others() {
        let (mut worst, mut heirs_of_all) = (0, 0);
        for world in 0..100 {
            let members = names(4, world);
            let ranks = ranks(&members);
            for dead in &members {
                let orphans = (0..SHARES).filter(|share| ranks.rank(dead, *share) == Some(0));
                let heirs: Vec<&String> = orphans.map(|share| &ranks.order(share)[1]).collect();
                let most = members.iter().map(|heir| heirs.iter().filter(|name| **name == heir).count());
                worst = worst.max(most.max().unwrap());
                heirs_of_all += heirs.iter().collect::<BTreeSet<_>>().len();
            }
        }
        // 4 shares to 3 heirs: on average more than 2 of them get some.
        assert!(heirs_of_all > 2 * 4 * 100, "{heirs_of_all}");
        assert!(worst <= 4, "{worst}");
    }

    #[test]
    fn a_new_member_takes_its_shares_and_moves_few_others() {
        let mut moved_between_others = 0;
        for world in 0..100 {
            let before = names(4, world);
            let mut after = before.clone();
            after.insert("new".to_owned());
            let (before, after) = (ranks(&before), ranks(&after));
            for share in 0..SHARES {
                let (old, new) = (&before.order(share)[0], &after.order(share)[0]);
                moved_between_others += usize::from(old != new && new != "new");
            }
        }
        // 16 shares in each of 100 worlds; without the bound it would be none.
        assert!(moved_between_others < 16 * 100 / 4, "{moved_between_others}");
    }

    #[test]
    fn the_order_of_the_names_and_the_box_do_not_matter_but_the_group_does() {
        let members = names(3, 7);
        assert_eq!(ranks(&members), ranks(&members.iter().rev().cloned().collect()));
        assert_ne!(ranks(&members), Ranks::new("other", &members));
        // Fixed: boxes of different versions must agree.
        let pair = ["box-a", "box-b"].map(str::to_owned).into();
        let first: Vec<u8> =
            (0..SHARES).filter(|share| ranks(&pair).rank("box-a", *share) == Some(0)).collect();
        assert_eq!(first.len(), 8, "{first:?}");
    }
}
