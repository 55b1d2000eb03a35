// SPDX-License-Identifier: Apache-2.0
//! Keeps LRO off on links that forward. With LRO, a card puts packets of a TCP stream together and hands them over as one,
//! which is for hosts that receive them: such a packet has lost what is needed to send it on, and some drivers damage it
//! when they send it. The kernel turns LRO off where it forwards itself, but it does not know that programs do.

use std::collections::BTreeSet;

use super::link_facts::LinkFacts;
use crate::error_chain::ErrorChain;
use crate::model::{Problem, ProblemReason, Subject};
use crate::netlink::turn_lro_off;

/// Turns LRO off where it is on: on these links, and on those on which they are built. Returns where it stays on.
pub(super) async fn keep_off(links: &[LinkFacts]) -> Vec<Problem> {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for link in links {
        for ifindex in [link.below, Some(link.ifindex)].into_iter().flatten() {
            if !seen.insert(ifindex) {
                continue;
            }
            match turn_lro_off(ifindex).await {
                Ok(false) => {}
                Ok(true) => tracing::info!(
                    link = link.name,
                    ifindex,
                    "LRO is turned off: what it puts together can't be forwarded"
                ),
                // It is away; a problem of its own says so.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => problems.push(problem(&link.name, &ErrorChain(&error).to_string())),
            }
        }
    }
    problems
}

fn problem(link: &str, error: &str) -> Problem {
    Problem {
        subject: Subject::Link(link.to_owned()),
        reason: ProblemReason::LroStaysOn,
        message: format!(
            "the card puts packets together that it receives (LRO), and those can't be forwarded; turn it off, on the link \
             below {link} if that is a VLAN: `ethtool -K {link} lro off`: {error}"
        ),
    }
}
