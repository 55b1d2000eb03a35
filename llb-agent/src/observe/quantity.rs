// SPDX-License-Identifier: Apache-2.0
//! Numbers as people read them in a table: two or three digits, and a unit. Pure.

/// `0`, `0.5`, `12`, `1.2k`, `340M`.
pub(super) fn count(number: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut number, mut unit) = (number, 0);
    // A number that would be rounded to 1000 gets the next unit.
    while number >= 999.5 && unit + 1 < UNITS.len() {
        (number, unit) = (number / 1_000.0, unit + 1);
    }
    let text = if number < 9.95 { format!("{number:.1}") } else { format!("{number:.0}") };
    format!("{}{}", text.trim_end_matches(".0"), UNITS[unit])
}

/// `512B`, `1.2kB`.
pub(super) fn bytes(number: f64) -> String {
    format!("{}B", count(number))
}

/// `0.3ms`, `12ms`, `1.5s`.
pub(super) fn micros(micros: u64) -> String {
    let millis = micros as f64 / 1_000.0;
    if millis < 999.5 { format!("{}ms", count(millis)) } else { format!("{}s", count(millis / 1_000.0)) }
}

/// A part in percent; none if the whole is 0.
pub(super) fn share(part: f64, whole: f64) -> Option<String> {
    (whole > 0.0).then(|| format!("{:.0}%", 100.0 * part / whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_few_digits_and_a_unit() {
        let counts = [0.0, 0.04, 0.5, 9.96, 12.4, 999.4, 999.6, 1_249.0, 340e6, 2e18];
        let expected = ["0", "0", "0.5", "10", "12", "999", "1k", "1.2k", "340M", "2000000T"];
        assert_eq!(counts.map(count), expected);
        assert_eq!([bytes(0.0), bytes(1_500.0)], ["0B", "1.5kB"]);
        assert_eq!([300, 12_000, 1_500_000].map(micros), ["0.3ms", "12ms", "1.5s"]);
        assert_eq!([share(1.0, 3.0), share(0.0, 0.0)], [Some("33%".to_owned()), None]);
    }
}
