// SPDX-License-Identifier: Apache-2.0
//! How much of each pool Services use. Not: who gets an address (`allocate.rs`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::Policy;
use crate::model::{Family, Pool, PoolUsage, PublishedStatus, State};

/// One entry for each pool and each family that it has, in the order of the command line.
pub(super) fn usage(policy: &Policy, state: &State) -> Vec<PoolUsage> {
    let vips: BTreeSet<IpAddr> = state.statuses.values().flat_map(PublishedStatus::addresses).collect();
    let of_pool = |pool: &Pool, family: Family| {
        let is_used = |vip: &&IpAddr| Family::of(**vip) == family && pool.gives(**vip);
        PoolUsage {
            pool: pool.name().map_or_else(|| pool.to_string(), str::to_owned),
            family,
            total: u64::try_from(pool.size(family)).unwrap_or(u64::MAX),
            used: vips.iter().filter(is_used).count() as u64,
            routed: pool.is_routed(),
        }
    };
    let all = policy.pools.iter().flat_map(|pool| [(pool, Family::V4), (pool, Family::V6)]);
    all.filter(|(pool, family)| pool.has_family(*family))
        .map(|(pool, family)| of_pool(pool, family))
        .collect()
}
