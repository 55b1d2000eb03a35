// SPDX-License-Identifier: Apache-2.0
//! Puts the pools of the configuration and those of the cluster together. Pure.

use crate::error_chain::ErrorChain;
use crate::model::{Pool, Problem, ProblemReason, Subject};

/// All pools: the operator's own ones first. One of the cluster that does not go together with those before it is
/// left out.
pub(super) fn together(own: &[Pool], of_cluster: &[String]) -> (Vec<Pool>, Vec<Problem>) {
    let (mut all, mut problems) = (own.to_vec(), Vec::new());
    for text in of_cluster {
        let added = text.parse().and_then(|pool| {
            all.push(pool);
            Pool::check_together(&all).inspect_err(|_| drop(all.pop()))
        });
        if let Err(error) = added {
            let subject = Subject::Source("pools of the cluster".to_owned());
            let message =
                format!("{text}: {}; this pool is not used: change it, or the other one", ErrorChain(&error));
            problems.push(Problem { subject, reason: ProblemReason::InvalidConfiguration, message });
        }
    }
    (all, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_of_the_cluster_that_overlaps_is_left_out_and_named() {
        let own: Vec<Pool> = vec!["a=192.0.2.0/28".parse().unwrap()];
        let of_cluster = ["b=192.0.2.16", "c=192.0.2.8", "a=192.0.2.17", "d=192.0.2.18"].map(str::to_owned);
        let (all, problems) = together(&own, &of_cluster);
        let names: Vec<_> = all.iter().filter_map(Pool::name).collect();
        assert_eq!(names, ["a", "b", "d"]);
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(said[0].contains("c=192.0.2.8: 192.0.2.1-192.0.2.14 and 192.0.2.8 overlap"), "{said:?}");
        assert!(said[1].contains("the name a is given twice"), "{said:?}");
        assert_eq!(said.len(), 2);
    }
}
