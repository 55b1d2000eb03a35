//! The numbers of a run as table, JSON and plot. It measures nothing.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::balancer::Balancer;
use crate::probe::{ROWS, Row};

/// All values of one run.
pub(crate) struct Report {
    rounds: u32,
    seconds: u32,
    values: BTreeMap<(Row, Balancer), Vec<f64>>,
}

/// Median and spread of the rounds.
struct Summary {
    median: f64,
    min: f64,
    max: f64,
}

impl Report {
    pub(crate) fn new(rounds: u32, seconds: u32) -> Self {
        Self { rounds, seconds, values: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, balancer: Balancer, values: &[(Row, f64)]) {
        for (row, value) in values {
            self.values.entry((*row, balancer)).or_default().push(*value);
        }
    }

    /// Markdown: median (min to max) for each, and llb in relation to the better of the others.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{}; {} rounds of {} s; median (min to max)\n\n| | llb | haproxy | nginx | llb : better of the two |\n|---|---|---|---|---|\n",
            machine(),
            self.rounds,
            self.seconds
        );
        for row in ROWS {
            let cell = |balancer| match self.summary(row, balancer) {
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
        let rows: Vec<Value> = ROWS
            .into_iter()
            .map(|row| {
                let values: BTreeMap<&str, &Vec<f64>> = Balancer::ALL
                    .into_iter()
                    .filter_map(|balancer| Some((balancer.name(), self.values.get(&(row, balancer))?)))
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
        let height = ROWS.len() * HEIGHT + 40;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"760\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"18\">llb : better of HAProxy and nginx (right of the line: llb is better)</text>\n"
        );
        for (index, row) in ROWS.into_iter().enumerate() {
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

    /// Above 1: llb is better.
    fn ratio(&self, row: Row) -> Option<f64> {
        let llb = self.summary(row, Balancer::Llb)?.median;
        let others = [Balancer::Haproxy, Balancer::Nginx]
            .into_iter()
            .filter_map(|balancer| Some(self.summary(row, balancer)?.median));
        Some(if row.less_is_better {
            others.reduce(f64::min)? / llb
        } else {
            llb / others.reduce(f64::max)?
        })
    }

    fn summary(&self, row: Row, balancer: Balancer) -> Option<Summary> {
        let mut values = self.values.get(&(row, balancer))?.clone();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Summary { median, min: *values.first()?, max: *values.last()? })
    }
}

/// Three or more digits.
fn short(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores, Linux {}", rustix::system::uname().release().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_means_better_whichever_way_a_row_counts() {
        let mut report = Report::new(1, 1);
        let (rate, time) = (ROWS[0], ROWS[4]);
        assert!(!rate.less_is_better && time.less_is_better);
        report.add(Balancer::Llb, &[(rate, 200.0), (time, 50.0)]);
        report.add(Balancer::Haproxy, &[(rate, 100.0), (time, 100.0)]);
        report.add(Balancer::Nginx, &[(rate, 50.0), (time, 400.0)]);
        assert_eq!(report.ratio(rate), Some(2.0));
        assert_eq!(report.ratio(time), Some(2.0));
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        let mut report = Report::new(2, 1);
        for value in [1.0, 4.0, 2.0, 3.0] {
            report.add(Balancer::Llb, &[(ROWS[0], value)]);
        }
        assert_eq!(report.summary(ROWS[0], Balancer::Llb).unwrap().median, 2.5);
        assert_eq!(report.ratio(ROWS[0]), None);
    }
}
