// SPDX-License-Identifier: Apache-2.0
//! The results of a run as table, JSON and plot.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::stage::Balancer;
use crate::figures::{Figures, Row, Summary, machine, short};
use crate::probe::ROWS;

/// All values of one run.
pub(crate) struct Report {
    rounds: u32,
    seconds: u32,
    figures: Figures<Balancer>,
}

impl Report {
    pub(crate) fn new(rounds: u32, seconds: u32) -> Self {
        Self { rounds, seconds, figures: Figures::new() }
    }

    pub(crate) fn add(&mut self, balancer: Balancer, values: &[(Row, f64)]) {
        self.figures.add(balancer, values);
    }

    /// Without the flood of datagrams, which is not measured here.
    fn rows(&self) -> impl Iterator<Item = Row> {
        ROWS.into_iter().filter(|row| self.figures.values(*row, Balancer::Llb).is_some())
    }

    /// Markdown: median, minimum and maximum for each balancer, and llb in relation to the better of the
    /// others.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{}; {} rounds of {} s; median (min to max)\n\n| | llb | haproxy | nginx | llb : better of the two |\n|---|---|---|---|---|\n",
            machine(),
            self.rounds,
            self.seconds
        );
        for row in self.rows() {
            let cell = |balancer| match self.figures.summary(row, balancer) {
                Some(Summary { median, min, max }) => {
                    format!("{} ({} to {})", short(median), short(min), short(max))
                }
                None => "-".to_owned(),
            };
            let ratio = self.ratio(row).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let [llb, haproxy, nginx] = Balancer::ALL.map(cell);
            text.push_str(&format!(
                "| {}, {} | {llb} | {haproxy} | {nginx} | {ratio} |\n",
                row.name, row.unit
            ));
        }
        text
    }

    pub(crate) fn json(&self) -> String {
        let rows: Vec<Value> = self
            .rows()
            .map(|row| {
                let values: BTreeMap<&str, &Vec<f64>> = Balancer::ALL
                    .into_iter()
                    .filter_map(|balancer| Some((balancer.name(), self.figures.values(row, balancer)?)))
                    .collect();
                json!({
                    "name": row.name, "unit": row.unit, "less_is_better": row.less_is_better,
                    "values": values, "ratio": self.ratio(row),
                })
            })
            .collect();
        let whole = json!({
            "machine": machine(), "rounds": self.rounds, "seconds": self.seconds, "rows": rows,
        });
        format!("{whole:#}\n")
    }

    /// A bar for each row: llb in relation to the better of the others.
    pub(crate) fn svg(&self) -> String {
        const HEIGHT: usize = 28;
        const LEFT: f64 = 300.0;
        const PER_ONE: f64 = 200.0;
        const MOST: f64 = 2.0;
        let rows: Vec<Row> = self.rows().collect();
        let height = rows.len() * HEIGHT + 40;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"760\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"18\">llb : better of HAProxy and nginx (right of the line: llb is better)</text>\n"
        );
        for (index, row) in rows.into_iter().enumerate() {
            let (top, ratio) = (30 + index * HEIGHT, self.ratio(row).unwrap_or_default());
            let colour = if ratio >= 1.0 { "#2a7" } else { "#c63" };
            text.push_str(&format!(
                "<text x=\"10\" y=\"{base}\">{name}</text>\
                 <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.0}\" height=\"20\" fill=\"{colour}\"/>\
                 <text x=\"{end:.0}\" y=\"{base}\">{ratio:.2}</text>\n",
                name = row.name,
                base = top + 15,
                width = ratio.min(MOST) * PER_ONE,
                end = LEFT + ratio.min(MOST) * PER_ONE + 6.0,
            ));
        }
        let line = LEFT + PER_ONE;
        text.push_str(&format!(
            "<line x1=\"{line}\" y1=\"26\" x2=\"{line}\" y2=\"{}\" stroke=\"black\"/>\n</svg>\n",
            height - 8
        ));
        text
    }

    /// More than 1 if llb is better.
    fn ratio(&self, row: Row) -> Option<f64> {
        self.figures.ratio(row, Balancer::Llb, &[Balancer::Haproxy, Balancer::Nginx])
    }
}
