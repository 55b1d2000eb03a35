// SPDX-License-Identifier: Apache-2.0
//! Times that were measured, as rows of a table in Markdown. `cargo xtask bench failover` collects the rows.

use std::fmt;
use std::time::Duration;

/// Upper ends of the columns of the histogram, in milliseconds.
const COLUMNS: [u128; 7] = [50, 100, 200, 250, 300, 350, 500];

/// Named rows, in the order in which they came.
#[derive(Default)]
pub(crate) struct Figures {
    rows: Vec<(String, Vec<Duration>)>,
}

impl Figures {
    /// Adds times to a row.
    pub(crate) fn note(&mut self, row: &str, times: impl IntoIterator<Item = Duration>) {
        let place = self.rows.iter().position(|(name, _)| name == row).unwrap_or_else(|| {
            self.rows.push((row.to_owned(), Vec::new()));
            self.rows.len() - 1
        });
        self.rows[place].1.extend(times);
    }

    /// All times of a row.
    pub(crate) fn of(&self, row: &str) -> &[Duration] {
        self.rows.iter().find(|(name, _)| name == row).map_or(&[], |(_, times)| times)
    }

    /// Prints a row for each name: how many, shortest, median, longest, and how many are in each column.
    pub(crate) fn print(&self) {
        // The test harness has not ended its line yet.
        print!("\n{self}");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, times) in self.rows.iter().filter(|(_, times)| !times.is_empty()) {
            let mut times: Vec<u128> = times.iter().map(Duration::as_millis).collect();
            times.sort_unstable();
            let (count, median) = (times.len(), times[times.len() / 2]);
            write!(f, "| {name} | {count} | {} | {median} | {} |", times[0], times[count - 1])?;
            let mut from = 0;
            for to in COLUMNS {
                let within = times.iter().filter(|time| (from..to).contains(time)).count();
                write!(f, " {within} |")?;
                from = to;
            }
            writeln!(f, " {} |", times.iter().filter(|time| **time >= from).count())?;
        }
        Ok(())
    }
}
