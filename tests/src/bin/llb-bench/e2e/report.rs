// SPDX-License-Identifier: Apache-2.0
//! The results of a run as text and JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::contender::{BASELINE, Contender, PROXIES, XDP_BASELINE};
use crate::figures::{Figures, Row, compact, machine};
use crate::probe::ROWS;

/// The aim for llb: at least this ratio to plain routing, in each row.
const AIM_ROUTING: f64 = 1.0;

/// The aim for llb: at least this ratio to the better of HAProxy and nginx.
const AIM_PROXIES: f64 = 1.5;

/// All values of one run.
pub(crate) struct Report {
    contenders: Vec<Contender>,
    has_offload: bool,
    rounds: u32,
    seconds: u32,
    figures: Figures<Contender>,
}

impl Report {
    pub(crate) fn new(contenders: Vec<Contender>, has_offload: bool, rounds: u32, seconds: u32) -> Self {
        Self { contenders, has_offload, rounds, seconds, figures: Figures::new() }
    }

    pub(crate) fn add(&mut self, contender: Contender, values: &[(Row, f64)]) {
        self.figures.add(contender, values);
    }

    pub(crate) fn contenders(&self) -> &[Contender] {
        &self.contenders
    }

    /// The median in relation to plain routing; more than 1 means better.
    pub(crate) fn to_baseline(&self, row: Row, contender: Contender) -> Option<f64> {
        self.figures.ratio(row, contender, &[BASELINE])
    }

    /// The median as text.
    pub(crate) fn median(&self, row: Row, contender: Contender) -> Option<String> {
        Some(compact(self.figures.summary(row, contender)?.median))
    }

    /// A line that says what was measured.
    pub(crate) fn title(&self) -> String {
        format!(
            "{}; offloads {}; {} rounds of {} s",
            machine(),
            if self.has_offload { "on" } else { "off" },
            self.rounds,
            self.seconds
        )
    }

    /// The results as Markdown.
    pub(crate) fn text(&self) -> String {
        let llb: Vec<Contender> =
            self.contenders.iter().copied().filter(|contender| contender.is_llb()).collect();
        let all = &self.contenders;
        let spread = |row, contender| {
            let summary = self.figures.summary(row, contender)?;
            Some(format!("{} to {}", compact(summary.min), compact(summary.max)))
        };
        let aim = |ratio: f64, aim: f64| {
            let is_met = if ratio >= aim { "" } else { " *" };
            format!("{ratio:.2}{is_met}")
        };
        let to_routing =
            |row, contender| self.to_baseline(row, contender).map(|ratio| aim(ratio, AIM_ROUTING));
        let to_proxies = |row, contender| {
            self.figures.ratio(row, contender, &PROXIES).map(|ratio| aim(ratio, AIM_PROXIES))
        };
        let mut text = format!("{}.\n\nMedians:\n\n", self.title());
        text.push_str(&table(all, |row, contender| self.median(row, contender)));
        text.push_str("\nLeast to most of the rounds:\n\n");
        text.push_str(&table(all, spread));
        text.push_str(&format!(
            "\nIn relation to plain routing; above 1 llb is better; `*`: below the aim of {AIM_ROUTING:.1}:\n\n"
        ));
        text.push_str(&table(&llb, to_routing));
        if all.contains(&XDP_BASELINE) {
            let on_xdp: Vec<Contender> = llb.iter().copied().filter(|one| one.is_on_xdp()).collect();
            text.push_str("\nIn relation to plain routing on links that are made as those of XDP:\n\n");
            text.push_str(&table(&on_xdp, |row, contender| {
                self.figures.ratio(row, contender, &[XDP_BASELINE]).map(|ratio| format!("{ratio:.2}"))
            }));
        }
        text.push_str(&format!(
            "\nIn relation to the better of HAProxy and nginx; `*`: below the aim of {AIM_PROXIES:.1}:\n\n"
        ));
        text.push_str(&table(&llb, to_proxies));
        text.push_str("\nWho they are:\n\n");
        for contender in all {
            text.push_str(&format!("- {}: {}\n", contender.name(), contender.what()));
        }
        text
    }

    pub(crate) fn json(&self) -> String {
        let rows: Vec<Value> = ROWS.into_iter().map(|row| self.row_as_json(row)).collect();
        let whole = json!({
            "machine": machine(),
            "offloads": self.has_offload,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "contenders": self.contenders.iter().map(|one| (one.name(), one.what())).collect::<BTreeMap<_, _>>(),
            "rows": rows,
        });
        format!("{whole:#}\n")
    }

    fn row_as_json(&self, row: Row) -> Value {
        let by_name = |of: &dyn Fn(Contender) -> Option<Value>| -> BTreeMap<&str, Value> {
            self.contenders.iter().filter_map(|one| Some((one.name(), of(*one)?))).collect()
        };
        json!({
            "name": row.name,
            "unit": row.unit,
            "less_is_better": row.less_is_better,
            "values": by_name(&|one| self.figures.values(row, one).map(|values| json!(values))),
            "medians": by_name(&|one| self.figures.summary(row, one).map(|summary| json!(summary.median))),
            "to_routing": by_name(&|one| self.to_baseline(row, one).map(|ratio| json!(ratio))),
            "to_better_of_haproxy_and_nginx":
                by_name(&|one| self.figures.ratio(row, one, &PROXIES).map(|ratio| json!(ratio))),
        })
    }
}

/// A table with a line for each row and a column for each contender.
fn table(contenders: &[Contender], cell: impl Fn(Row, Contender) -> Option<String>) -> String {
    let mut text = String::from("| |");
    for contender in contenders {
        text.push_str(&format!(" {} |", contender.name()));
    }
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(contenders.len())));
    for row in ROWS {
        text.push_str(&format!("| {}, {} |", row.name, row.unit));
        for contender in contenders {
            text.push_str(&format!(" {} |", cell(row, *contender).unwrap_or_else(|| "-".to_owned())));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_aim_is_marked_and_a_row_that_was_not_measured_has_a_dash() {
        let mut report = Report::new(Contender::all(true), true, 1, 1);
        for (contender, value) in [
            (Contender::Routing, 100.0),
            (Contender::Haproxy, 80.0),
            (Contender::TcNat, 90.0),
            (Contender::TcDsr, 130.0),
        ] {
            report.add(contender, &[(ROWS[0], value)]);
        }
        let text = report.text();
        assert!(text.contains("| 0.90 * | 1.30 | - |"), "{text}");
        assert!(text.contains("| 1.12 * | 1.62 | - |"), "{text}");
    }
}
