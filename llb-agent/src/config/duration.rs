// SPDX-License-Identifier: Apache-2.0
//! Durations on the command line.

use std::time::Duration;

/// `500ms`, `30s`, `5m`, `1h`, or seconds without a unit.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 =
        digits.parse().map_err(|_| "give a whole number with ms, s, m or h, as in 30s".to_owned())?;
    let millis = match &text[digits.len()..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        unit => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
    };
    /// A longer time is a mistake, and could overflow calculations with the clock.
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
    match millis.map(Duration::from_millis) {
        Some(duration) if duration <= LONGEST => Ok(duration),
        _ => Err("at most 168h".to_owned()),
    }
}

/// The same, but more than 0: a time-out of 0 would end everything at once.
pub(super) fn parse_limit(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("give more than 0".to_owned()),
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert!(parse_duration("99999999999999999999s").is_err());
        assert!(parse_duration("200h").is_err());
        assert!(parse_duration("s").is_err());
    }
}
