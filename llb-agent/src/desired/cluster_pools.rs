// SPDX-License-Identifier: Apache-2.0
//! The pools of the configuration and those of the cluster together.

use crate::config::Policy;
use crate::error_chain::ErrorChain;
use crate::model::{ClusterPools, DisjointPools, Pool, PoolError, Problem, ProblemReason, Subject};

/// The policy with all pools: those of the configuration first. A pool of the cluster that can't be used beside those
/// before it is left out. Pools of another ConfigMap than the policy's do not count.
pub fn with_cluster_pools(configured: &Policy, known: Option<&ClusterPools>) -> (Policy, Option<Problem>) {
    let mut policy = configured.clone();
    let known = known.filter(|known| configured.config_map.as_ref() == Some(&known.config_map));
    let Some(known) = known else { return (policy, None) };
    let mut disjoint = DisjointPools::default();
    // They were checked before.
    configured.pools.iter().for_each(|own| drop(disjoint.add(own)));
    let mut left_out = Vec::new();
    for text in &known.pools {
        let pool = text.parse().and_then(|pool: Pool| disjoint.add(&pool).map(|()| pool));
        match pool {
            Ok(pool) => policy.pools.push(pool),
            Err(error) => left_out.push(sentence(text, &error)),
        }
    }
    let problem = (!left_out.is_empty()).then(|| Problem {
        subject: Subject::Object(format!("ConfigMap {}", known.config_map)),
        reason: ProblemReason::InvalidConfiguration,
        message: format!(
            "{} of its pools can't be used beside those of --pool, and are left out: {}; change them, or the others",
            left_out.len(),
            left_out.join("; ")
        ),
    });
    (policy, problem)
}

fn sentence(text: &str, error: &PoolError) -> String {
    format!("{text}: {}", ErrorChain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(config_map: &str, pools: &[&str]) -> ClusterPools {
        let pools = pools.iter().map(|&text| text.to_owned()).collect();
        ClusterPools { config_map: config_map.to_owned(), pools }
    }

    fn policy(pools: &[&str]) -> Policy {
        let pools = pools.iter().map(|text| text.parse().unwrap()).collect();
        Policy { pools, config_map: Some("llb/pools".to_owned()), ..Policy::default() }
    }

    #[test]
    fn a_pool_of_the_cluster_that_overlaps_is_left_out_and_named() {
        let pools = ["b=192.0.2.16", "c=192.0.2.8", "a=192.0.2.17", "d=192.0.2.18"];
        let (all, problem) =
            with_cluster_pools(&policy(&["a=192.0.2.0/28"]), Some(&known("llb/pools", &pools)));
        let names: Vec<_> = all.pools.iter().filter_map(Pool::name).collect();
        assert_eq!(names, ["a", "b", "d"]);
        let said = problem.unwrap().to_string();
        assert!(
            said.starts_with("ConfigMap llb/pools: InvalidConfiguration: 2 of its pools can't be used"),
            "{said}"
        );
        assert!(said.contains("c=192.0.2.8: 192.0.2.1-192.0.2.14 and 192.0.2.8 overlap"), "{said}");
        assert!(said.contains("a=192.0.2.17: the name a is given twice"), "{said}");
    }

    #[test]
    fn without_pools_that_can_be_used_nothing_is_open() {
        for known in
            [None, Some(known("llb/others", &["192.0.2.1"])), Some(known("llb/pools", &["nonsense"]))]
        {
            let (all, _) = with_cluster_pools(&policy(&[]), known.as_ref());
            assert!(all.pools.is_empty() && !all.has_no_pools());
        }
        let without = Policy { config_map: None, ..policy(&[]) };
        assert!(with_cluster_pools(&without, Some(&known("llb/pools", &["192.0.2.1"]))).0.has_no_pools());
    }
}
