// SPDX-License-Identifier: Apache-2.0
//! Pools that can be used together: no two have one name, and no address is in two ranges.

use std::collections::{BTreeMap, BTreeSet};

use super::address::Family;
use super::pool::{Pool, PoolError};
use super::range::AddressRange;

/// The names and ranges of pools that can be used together. Adding one range takes as long as a look into a tree, so
/// that people who write thousands of ranges can't stop llb.
#[derive(Debug, Default)]
pub struct DisjointPools {
    names: BTreeSet<String>,
    /// By their first addresses.
    ranges: BTreeMap<(Family, u128), AddressRange>,
}

impl DisjointPools {
    /// Checks that these pools can be used together.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn check(pools: &[Pool]) -> Result<(), PoolError> {
        let mut disjoint = Self::default();
        pools.iter().try_for_each(|pool| disjoint.add(pool))
    }

    /// Adds a pool.
    ///
    /// # Errors
    /// It can't be used beside those that were added before, and is left out. Names the two pools or ranges.
    pub fn add(&mut self, pool: &Pool) -> Result<(), PoolError> {
        if let Some(name) = pool.name().filter(|name| self.names.contains(*name)) {
            return Err(PoolError::NameTwice { name: name.to_owned() });
        }
        for (position, range) in pool.ranges().iter().enumerate() {
            if let Some(first) = self.overlapping(range) {
                let error = PoolError::Overlap { first: first.clone(), second: range.clone() };
                for added in &pool.ranges()[..position] {
                    self.ranges.remove(&added.start());
                }
                return Err(error);
            }
            self.ranges.insert(range.start(), range.clone());
        }
        self.names.extend(pool.name().map(str::to_owned));
        Ok(())
    }

    /// The ranges are disjoint, so only the last one that begins before the end of `range` can overlap with it.
    fn overlapping(&self, range: &AddressRange) -> Option<&AddressRange> {
        let (_, before) = self.ranges.range(..=range.end()).next_back()?;
        before.overlaps(range).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(texts: &[&str]) -> Vec<Pool> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn names_and_addresses_are_in_one_pool_only() {
        for (texts, said) in [
            (&["a=192.0.2.1", "192.0.2.2-192.0.2.3,2001:db8::2", "2001:db8::3"][..], None),
            (&["a=192.0.2.1", "b=192.0.2.2", "a=192.0.2.3"], Some("the name a is given twice")),
            (&["192.0.2.0/24", "192.0.2.9"], Some("192.0.2.1-192.0.2.254 and 192.0.2.9 overlap")),
            (&["192.0.2.9", "192.0.2.0/24"], Some("192.0.2.9 and 192.0.2.1-192.0.2.254 overlap")),
            (&["192.0.2.1-192.0.2.5", "192.0.2.5-192.0.2.9"], Some("192.0.2.1-192.0.2.5 and")),
            (&["192.0.2.5-192.0.2.9", "192.0.2.1-192.0.2.5"], Some("192.0.2.5-192.0.2.9 and")),
            (&["192.0.2.7,192.0.2.7"], Some("192.0.2.7 and 192.0.2.7 overlap")),
            (&["2001:db8::/64", "2001:db8::7"], Some("and 2001:db8::7 overlap")),
        ] {
            let found = DisjointPools::check(&pools(texts)).err().map(|error| error.to_string());
            match (said, found) {
                (None, None) => {}
                (Some(said), Some(found)) => assert!(found.contains(said), "{texts:?}: {found}"),
                (said, found) => panic!("{texts:?}: {found:?} in place of {said:?}"),
            }
        }
    }

    #[test]
    fn a_pool_that_is_left_out_leaves_nothing() {
        let mut disjoint = DisjointPools::default();
        let all = pools(&["a=192.0.2.1", "b=192.0.2.2,192.0.2.1", "b=192.0.2.2"]);
        let added: Vec<bool> = all.iter().map(|pool| disjoint.add(pool).is_ok()).collect();
        assert_eq!(added, [true, false, true]);
    }

    /// Compared pair by pair, these would be two billion comparisons.
    #[test]
    fn many_ranges_that_do_not_overlap_are_accepted() {
        let ranges = |pool: u32| -> String {
            let address = |number: u32| {
                std::net::Ipv4Addr::from(0x0a00_0000 + pool * 0x1_0000 + 2 * number).to_string()
            };
            (0..256).map(address).collect::<Vec<_>>().join(",")
        };
        let all: Vec<Pool> = (0..256).map(|pool| ranges(pool).parse().unwrap()).collect();
        assert!(DisjointPools::check(&all).is_ok());
    }
}
