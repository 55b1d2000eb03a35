// SPDX-License-Identifier: Apache-2.0
//! Values as table and JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Something that was measured several times.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Values in the order of measurement; at least one.
    pub(crate) values: Vec<f64>,
    /// The statistic that has a target, and its largest allowed value.
    pub(crate) target: Option<(Statistic, f64)>,
}

/// One number that stands for many values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Statistic {
    P99,
    Max,
}

impl Row {
    /// Whether the target is reached. A row without a target always passes.
    pub(crate) fn passes(&self) -> bool {
        self.target.is_none_or(|(statistic, most)| self.value(statistic) <= most)
    }

    fn value(&self, statistic: Statistic) -> f64 {
        match statistic {
            Statistic::P99 => self.quantile(0.99),
            Statistic::Max => self.quantile(1.0),
        }
    }

    /// The smallest value that is not exceeded by this part of the values.
    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (part * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    fn target_text(&self) -> String {
        match self.target {
            Some((Statistic::P99, most)) => format!("p99 <= {most:.0}"),
            Some((Statistic::Max, most)) => format!("<= {most:.0}"),
            None => "-".to_owned(),
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.target, self.passes()) {
            (None, _) => "-",
            (_, true) => "pass",
            (_, false) => "FAIL",
        }
    }
}

/// The table as Markdown, for the terminal and for docs/bench-control.md.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{} cores, {}\n\n| row | unit | n | median | p99 | min | max | target | |\n|---|---|---|---|---|---|---|---|---|\n",
        cores(),
        kernel()
    );
    for row in rows {
        let quantiles = [0.5, 0.99, 0.0, 1.0].map(|part| format!("{:.1}", row.quantile(part)));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            row.name,
            row.unit,
            row.values.len(),
            quantiles.join(" | "),
            row.target_text(),
            row.verdict()
        );
    }
    text
}

/// Writes all results, including the single values.
pub(crate) fn write_json(path: &Path, rows: &[Row]) -> Result<()> {
    let row = |row: &Row| {
        json!({
            "name": row.name, "unit": row.unit, "target": row.target_text(), "passes": row.passes(),
            "median": row.quantile(0.5), "p99": row.quantile(0.99), "min": row.quantile(0.0), "max": row.quantile(1.0),
            "values": row.values,
        })
    };
    let rows: Vec<Value> = rows.iter().map(row).collect();
    let text = serde_json::to_string_pretty(&json!({"cores": cores(), "kernel": kernel(), "rows": rows}))?;
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).with_context(failed)?;
    fs::write(path, text).with_context(failed)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// Only the version numbers: the rest of a release name may say who built it.
fn kernel() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version: String = release.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    format!("Linux {version}")
}
