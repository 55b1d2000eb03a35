// SPDX-License-Identifier: Apache-2.0
//! The results of a run as text and JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::contender::{BASELINE, Contender, PROXIES, XDP_BASELINE};
use crate::figures::{Figures, Row, compact, machine};
use crate::probe::{CPU_AIMS, CPU_ROWS, HTTP_ROWS, ROWS};

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
    /// All contenders are up.
    pub(crate) together: Figures<Contender>,
    /// The programs of all others are stopped.
    pub(crate) alone: Figures<Contender>,
    busy_before_percent: f64,
}

impl Report {
    pub(crate) fn new(contenders: Vec<Contender>, has_offload: bool, rounds: u32, seconds: u32) -> Self {
        Self {
            contenders,
            has_offload,
            rounds,
            seconds,
            together: Figures::new(),
            alone: Figures::new(),
            busy_before_percent: 0.0,
        }
    }

    /// How busy the cores were before the run.
    pub(crate) fn set_busy_before(&mut self, percent: f64) {
        self.busy_before_percent = percent;
    }

    pub(crate) fn contenders(&self) -> &[Contender] {
        &self.contenders
    }

    /// The median in relation to plain routing; more than 1 means better.
    pub(crate) fn to_baseline(&self, row: Row, contender: Contender) -> Option<f64> {
        self.together.ratio(row, contender, &[BASELINE])
    }

    /// The median as text.
    pub(crate) fn median(&self, row: Row, contender: Contender) -> Option<String> {
        Some(compact(self.together.summary(row, contender)?.median))
    }

    /// A line that says what was measured.
    pub(crate) fn title(&self) -> String {
        format!(
            "{}; {:.0} % of the cores busy before the run; offloads {}; {} rounds of {} s",
            machine(),
            self.busy_before_percent,
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
            let summary = self.together.summary(row, contender)?;
            Some(format!("{} to {}", compact(summary.min), compact(summary.max)))
        };
        let aim = |ratio: f64, aim: f64| {
            let is_met = if ratio >= aim { "" } else { " *" };
            format!("{ratio:.2}{is_met}")
        };
        let to_routing =
            |row, contender| self.to_baseline(row, contender).map(|ratio| aim(ratio, AIM_ROUTING));
        let to_proxies = |row, contender| {
            self.together.ratio(row, contender, &PROXIES).map(|ratio| aim(ratio, AIM_PROXIES))
        };
        let mut text = format!("{}.\n\nMedians:\n\n", self.title());
        text.push_str(&table(&ROWS, all, |row, contender| self.median(row, contender)));
        text.push_str("\nLeast to most of the rounds:\n\n");
        text.push_str(&table(&ROWS, all, spread));
        text.push_str(&format!(
            "\nIn relation to plain routing; above 1 llb is better; `*`: below the aim of {AIM_ROUTING:.1}:\n\n"
        ));
        text.push_str(&table(&ROWS, &llb, to_routing));
        if all.contains(&XDP_BASELINE) {
            let on_xdp: Vec<Contender> = llb.iter().copied().filter(|one| one.is_on_xdp()).collect();
            text.push_str("\nIn relation to plain routing on links that are made as those of XDP:\n\n");
            text.push_str(&table(&ROWS, &on_xdp, |row, contender| {
                self.together.ratio(row, contender, &[XDP_BASELINE]).map(|ratio| format!("{ratio:.2}"))
            }));
        }
        text.push_str(&format!(
            "\nIn relation to the better of HAProxy and nginx; `*`: below the aim of {AIM_PROXIES:.1}:\n\n"
        ));
        text.push_str(&table(&ROWS, &llb, to_proxies));
        text.push_str(&self.cpu_text());
        text.push_str("\nWho they are:\n\n");
        for contender in all {
            text.push_str(&format!("- {}: {}\n", contender.name(), contender.what()));
        }
        text
    }

    /// What the cores spend, and HTTP alone.
    fn cpu_text(&self) -> String {
        let all = &self.contenders;
        let median = |figures: &Figures<Contender>, row, contender| {
            Some(compact(figures.summary(row, contender)?.median))
        };
        let to_routing = |figures: &Figures<Contender>, row: Row, contender| {
            // Spent in relation to routing, so the other way round than everywhere else.
            let spent = 1.0 / figures.ratio(row, contender, &[BASELINE])?;
            let aim = CPU_AIMS.iter().find(|(with_aim, _)| *with_aim == row);
            let is_met = aim.is_none_or(|(_, aim)| spent <= *aim || !contender.is_llb());
            Some(format!("{spent:.2}{}", if is_met { "" } else { " *" }))
        };
        let [(_, kept), (_, new)] = CPU_AIMS;
        let mut text = String::from("\nCPU time that all cores of the machine spend on each unit:\n\n");
        text.push_str(&table(&CPU_ROWS, all, |row, who| median(&self.together, row, who)));
        text.push_str(&format!(
            "\nThe same in relation to plain routing; below 1 is better; `*`: above the aim of {kept} (kept alive) or {new} (new):\n\n"
        ));
        text.push_str(&table(&CPU_ROWS, all, |row, who| to_routing(&self.together, row, who)));
        text.push_str("\nHTTP, each alone: the programs of all others are stopped:\n\n");
        text.push_str(&table(&HTTP_ROWS, all, |row, who| median(&self.alone, row, who)));
        text.push_str("\nCPU time alone, in relation to plain routing:\n\n");
        text.push_str(&table(&HTTP_ROWS[2..], all, |row, who| to_routing(&self.alone, row, who)));
        text
    }

    pub(crate) fn json(&self) -> String {
        let rows = |figures, rows: &[Row]| -> Vec<Value> {
            rows.iter().map(|row| self.row_as_json(figures, *row)).collect()
        };
        let whole = json!({
            "machine": machine(),
            "offloads": self.has_offload,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "contenders": self.contenders.iter().map(|one| (one.name(), one.what())).collect::<BTreeMap<_, _>>(),
            "busy_before_percent": self.busy_before_percent,
            "rows": rows(&self.together, &[&ROWS[..], &CPU_ROWS].concat()),
            "alone": rows(&self.alone, &HTTP_ROWS),
        });
        format!("{whole:#}\n")
    }

    fn row_as_json(&self, figures: &Figures<Contender>, row: Row) -> Value {
        let by_name = |of: &dyn Fn(Contender) -> Option<Value>| -> BTreeMap<&str, Value> {
            self.contenders.iter().filter_map(|one| Some((one.name(), of(*one)?))).collect()
        };
        json!({
            "name": row.name,
            "unit": row.unit,
            "less_is_better": row.less_is_better,
            "values": by_name(&|one| figures.values(row, one).map(|values| json!(values))),
            "medians": by_name(&|one| figures.summary(row, one).map(|summary| json!(summary.median))),
            "to_routing": by_name(&|one| figures.ratio(row, one, &[BASELINE]).map(|ratio| json!(ratio))),
            "to_better_of_haproxy_and_nginx":
                by_name(&|one| figures.ratio(row, one, &PROXIES).map(|ratio| json!(ratio))),
        })
    }
}

/// A table with a line for each row and a column for each contender.
fn table(rows: &[Row], contenders: &[Contender], cell: impl Fn(Row, Contender) -> Option<String>) -> String {
    let mut text = String::from("| |");
    for contender in contenders {
        text.push_str(&format!(" {} |", contender.name()));
    }
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(contenders.len())));
    for row in rows.iter().copied() {
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
            report.together.add(contender, &[(ROWS[0], value)]);
        }
        let text = report.text();
        assert!(text.contains("| 0.90 * | 1.30 | - |"), "{text}");
        assert!(text.contains("| 1.12 * | 1.62 | - |"), "{text}");
    }

    #[test]
    fn more_cpu_time_than_the_aim_is_marked() {
        let mut report = Report::new(Contender::all(true), true, 1, 1);
        let [_, _, kept, new] = HTTP_ROWS;
        for (contender, kept_us, new_us) in [
            (Contender::Routing, 20.0, 80.0),
            (Contender::Haproxy, 40.0, 160.0),
            (Contender::TcNat, 21.2, 84.0),
        ] {
            report.alone.add(contender, &[(kept, kept_us), (new, new_us)]);
        }
        let text = report.text();
        assert!(text.contains("| - | 1.00 | - | 2.00 | - | 1.06 * | - | - |"), "{text}");
        assert!(text.contains("| - | 1.00 | - | 2.00 | - | 1.05 | - | - |"), "{text}");
    }
}
