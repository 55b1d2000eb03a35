// SPDX-License-Identifier: Apache-2.0
//! Values as table and JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::world::{Family, Hook, Mode};

/// Packets of one kind.
pub(crate) struct Row {
    pub(crate) hook: Hook,
    pub(crate) family: Family,
    /// `None` for the program to compare with.
    pub(crate) mode: Option<Mode>,
    pub(crate) flows: u32,
    /// Nanoseconds for each packet, one value for each round.
    pub(crate) values: Vec<f64>,
}

impl Row {
    fn name(&self) -> &'static str {
        match self.mode {
            None => "swap",
            Some(Mode::Dsr) => "dsr",
            Some(Mode::NatForward) => "nat, forward",
            Some(Mode::NatReply) => "nat, reply",
        }
    }

    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((part * (sorted.len() - 1) as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// What the program takes more than the one that only sends packets back: the median of the differences of
    /// the rounds, and the difference of the best rounds, which other work on the machine disturbed least.
    fn over_swap(&self, rows: &[Self]) -> [f64; 2] {
        let is_swap = |row: &&Self| row.mode.is_none() && (row.hook, row.family) == (self.hook, self.family);
        let Some(swap) = rows.iter().find(is_swap) else { return [f64::NAN; 2] };
        let pairs = self.values.iter().zip(&swap.values);
        let differences = Self { values: pairs.map(|(own, swap)| own - swap).collect(), ..*self };
        [differences.median(), self.quantile(0.0) - swap.quantile(0.0)]
    }
}

/// The table as Markdown, for the terminal and for docs/bench-packet.md.
pub(crate) fn table(cores: usize, rows: &[Row]) -> String {
    let mut text = format!(
        "\n{cores} cores, {}; ns for each packet\n\n| hook | family | program | flows | median | min | max | over swap | at best |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        kernel()
    );
    for row in rows {
        let quantiles = [0.5, 0.0, 1.0].map(|part| format!("{:.0}", row.quantile(part)));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {:?} | {:?} | {} | {} | {} | {} |",
            row.hook,
            row.family,
            row.name(),
            row.flows,
            quantiles.join(" | "),
            row.over_swap(rows).map(|value| format!("{value:.0}")).join(" | "),
        );
    }
    text
}

/// Writes all results, including the single values.
pub(crate) fn write_json(path: &Path, cores: usize, rows: &[Row]) -> Result<()> {
    let row = |row: &Row| {
        json!({
            "hook": format!("{:?}", row.hook), "family": format!("{:?}", row.family), "program": row.name(),
            "flows": row.flows, "median_ns": row.median(), "over_swap_ns": row.over_swap(rows)[0],
            "over_swap_at_best_ns": row.over_swap(rows)[1], "values_ns": row.values,
        })
    };
    let values: Vec<Value> = rows.iter().map(row).collect();
    let text = serde_json::to_string_pretty(&json!({"cores": cores, "kernel": kernel(), "rows": values}))?;
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).with_context(failed)?;
    fs::write(path, text).with_context(failed)
}

/// Only the version numbers: the rest of a release name may say who built it.
fn kernel() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version: String = release.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    format!("Linux {version}")
}
