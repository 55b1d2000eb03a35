// SPDX-License-Identifier: Apache-2.0
//! Reads the facts, each kind in a file of its own. All waits have limits. `judge/` decides what the facts mean.

mod links;
mod machine;
mod nodes;
mod segment;
mod source;

use std::net::IpAddr;

use super::facts::{Facts, Probed};
use crate::config::Config;

/// Reads all facts. The address `tried` is announced on the segment.
pub(super) async fn all(config: &Config, tried: Option<IpAddr>) -> Facts {
    let machine = machine::read(config).await;
    let links = links::read(config).await;
    let source = source::read(config).await;
    let reached = nodes::reach(config, &source).await;
    let (probed, trial) = match &links {
        Ok(links) => {
            let trial = match tried {
                Some(address) => Some(segment::try_address(links, &reached, address).await),
                None => None,
            };
            (segment::probe(config, links, &source).await, trial)
        }
        Err(_) => (Ok(Probed::default()), None),
    };
    Facts { machine, links, source, probed, reached, trial }
}
