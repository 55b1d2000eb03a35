// SPDX-License-Identifier: Apache-2.0
//! Collects the values of all rounds by row and by contender, and summarizes them. Each benchmark decides what
//! it prints of them.

use std::collections::BTreeMap;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) less_is_better: bool,
}

impl Row {
    pub(crate) const fn more(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, less_is_better: false }
    }

    pub(crate) const fn less(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, less_is_better: true }
    }

    /// How good `one` is in relation to `other`: more than 1 means better.
    pub(crate) fn ratio(self, one: f64, other: f64) -> f64 {
        if self.less_is_better { other / one } else { one / other }
    }

    /// The better one of two values.
    pub(crate) fn better(self, one: f64, other: f64) -> f64 {
        if self.ratio(one, other) >= 1.0 { one } else { other }
    }
}

/// All values of one run, by row and by contender.
pub(crate) struct Figures<Who> {
    values: BTreeMap<(Row, Who), Vec<f64>>,
}

/// Median and spread of the rounds.
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl<Who: Copy + Ord> Figures<Who> {
    pub(crate) fn new() -> Self {
        Self { values: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, who: Who, values: &[(Row, f64)]) {
        for (row, value) in values {
            self.values.entry((*row, who)).or_default().push(*value);
        }
    }

    pub(crate) fn values(&self, row: Row, who: Who) -> Option<&Vec<f64>> {
        self.values.get(&(row, who))
    }

    pub(crate) fn summary(&self, row: Row, who: Who) -> Option<Summary> {
        let mut values = self.values(row, who)?.clone();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Summary { median, min: *values.first()?, max: *values.last()? })
    }

    /// The median of `who` in relation to the best median of the others.
    pub(crate) fn ratio(&self, row: Row, who: Who, others: &[Who]) -> Option<f64> {
        let medians = others.iter().filter_map(|other| Some(self.summary(row, *other)?.median));
        let best = medians.reduce(|one, other| row.better(one, other))?;
        Some(row.ratio(self.summary(row, who)?.median, best))
    }
}

/// At least three digits.
pub(crate) fn short(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// All that the results say about the machine.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores, Linux {}", rustix::system::uname().release().to_string_lossy())
}

/// Three digits, or a few more.
pub(crate) fn compact(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{:.2}M", value / 1e6),
        _ if value >= 1e5 => format!("{:.0}k", value / 1e3),
        _ if value >= 1e4 => format!("{:.1}k", value / 1e3),
        _ if value >= 1e3 => format!("{:.2}k", value / 1e3),
        _ if value >= 1e2 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Row = Row::more("rate", "1/s");
    const TIME: Row = Row::less("time", "us");

    #[test]
    fn more_than_one_means_better_whichever_way_a_row_counts() {
        let mut figures = Figures::new();
        figures.add(0, &[(RATE, 200.0), (TIME, 50.0)]);
        figures.add(1, &[(RATE, 100.0), (TIME, 100.0)]);
        figures.add(2, &[(RATE, 50.0), (TIME, 400.0)]);
        assert_eq!(figures.ratio(RATE, 0, &[1, 2]), Some(2.0));
        assert_eq!(figures.ratio(TIME, 0, &[1, 2]), Some(2.0));
        assert_eq!(figures.ratio(RATE, 0, &[3]), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        let mut figures = Figures::new();
        for value in [1.0, 4.0, 2.0, 3.0] {
            figures.add((), &[(RATE, value)]);
        }
        let Summary { median, min, max } = figures.summary(RATE, ()).unwrap();
        assert_eq!((median, min, max), (2.5, 1.0, 4.0));
    }

    #[test]
    fn numbers_have_three_digits() {
        let texts = [1_234_567.0, 123_456.0, 12_345.0, 1234.5, 123.45, 12.345, 1.2345].map(compact);
        assert_eq!(texts, ["1.23M", "123k", "12.3k", "1.23k", "123", "12.3", "1.23"]);
    }
}
