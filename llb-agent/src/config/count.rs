// SPDX-License-Identifier: Apache-2.0
//! Numbers on the command line that must not be 0.

use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

/// A whole number from 1 on.
pub(super) fn parse_count<N: FromStr<Err = ParseIntError>>(text: &str) -> Result<N, String> {
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "the number is too large".to_owned(),
        _ => "give a whole number, 1 or more".to_owned(),
    })
}
