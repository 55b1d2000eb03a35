// SPDX-License-Identifier: Apache-2.0
//! Texts of the command line that become nouns of the model. clap shows only the text of an error, so the causes
//! are put into it.

use crate::error_chain::ErrorChain;
use crate::model::{Pool, PoolError, Selector};

pub(super) fn parse_pool(text: &str) -> Result<Pool, String> {
    text.parse().map_err(|error: PoolError| ErrorChain(&error).to_string())
}

pub(super) fn parse_selector(text: &str) -> Result<Selector, String> {
    Selector::of_nodes(text).map_err(|error| ErrorChain(&error).to_string())
}

/// Which names the kernel allows for a link.
pub(super) fn parse_link(name: &str) -> Result<String, &'static str> {
    /// `IFNAMSIZ` less the closing zero byte.
    const LONGEST: usize = 15;
    let bad = |c: char| c == '/' || c.is_whitespace();
    if name.is_empty() || name.len() > LONGEST || name.contains(bad) {
        return Err("the name of a link has 1 to 15 characters, without slash or space");
    }
    Ok(name.to_owned())
}
