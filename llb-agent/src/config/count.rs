// SPDX-License-Identifier: Apache-2.0
//! Numbers on the command line that must not be 0.

use std::num::{IntErrorKind, NonZeroUsize, ParseIntError};
use std::str::FromStr;

/// A whole number from 1 on.
pub(super) fn parse_count<N: FromStr<Err = ParseIntError>>(text: &str) -> Result<N, String> {
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "the number is too large".to_owned(),
        _ => "give a whole number, 1 or more".to_owned(),
    })
}

/// The largest value of `--max-connections` and of `--max-udp-sessions`: far more than one machine serves.
const MOST_OPEN: usize = 1 << 24;

/// How many connections or sessions may be open.
pub(super) fn parse_most_open(text: &str) -> Result<NonZeroUsize, String> {
    let count = parse_count::<NonZeroUsize>(text)?;
    if count.get() > MOST_OPEN {
        return Err(format!("the number is too large; the largest is {MOST_OPEN}"));
    }
    Ok(count)
}
