// SPDX-License-Identifier: Apache-2.0
//! The results of a run as a picture: a panel for each row, with a bar for each contender in relation to plain
//! routing.

use super::contender::Contender;
use super::report::Report;
use crate::figures::Row;
use crate::probe::ROWS;

/// Number of panels side by side.
const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 450;
const BAR_HEIGHT: usize = 15;
const HEAD: usize = 30;
const GAP: usize = 22;
/// Where bars begin, and the length of a bar for the value 1.
const LEFT: f64 = 100.0;
const PER_ONE: f64 = 110.0;
/// Longer bars are cut off.
const MOST: f64 = 2.0;

pub(crate) fn svg(report: &Report) -> String {
    let panel_height = report.contenders().len() * BAR_HEIGHT + GAP + 14;
    let (width, height) = (COLUMNS * PANEL_WIDTH, HEAD + ROWS.len().div_ceil(COLUMNS) * panel_height);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"18\">In relation to plain routing, the line; longer is better. {}</text>\n",
        report.title()
    );
    for (index, row) in ROWS.into_iter().enumerate() {
        let (x, y) = (index % COLUMNS * PANEL_WIDTH, HEAD + index / COLUMNS * panel_height);
        text.push_str(&format!("<g transform=\"translate({x},{y})\">\n{}</g>\n", panel(report, row)));
    }
    text.push_str("</svg>\n");
    text
}

fn panel(report: &Report, row: Row) -> String {
    let mut text =
        format!("<text x=\"10\" y=\"14\" font-weight=\"bold\">{}, {}</text>\n", row.name, row.unit);
    for (index, contender) in report.contenders().iter().enumerate() {
        let top = GAP + index * BAR_HEIGHT;
        let ratio = report.to_baseline(row, *contender);
        let end = LEFT + ratio.unwrap_or_default().min(MOST) * PER_ONE;
        let label = match (ratio, report.median(row, *contender)) {
            (Some(ratio), Some(median)) => format!("{median} ({ratio:.2})"),
            _ => "-".to_owned(),
        };
        text.push_str(&format!(
            "<text x=\"10\" y=\"{base}\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.0}\" height=\"{height}\" fill=\"{colour}\"/>\
             <text x=\"{after:.0}\" y=\"{base}\">{label}</text>\n",
            base = top + BAR_HEIGHT - 3,
            name = contender.name(),
            width = end - LEFT,
            height = BAR_HEIGHT - 2,
            colour = colour(*contender),
            after = end + 5.0,
        ));
    }
    let line = LEFT + PER_ONE;
    text.push_str(&format!(
        "<line x1=\"{line}\" y1=\"{GAP}\" x2=\"{line}\" y2=\"{}\" stroke=\"black\"/>\n",
        GAP + report.contenders().len() * BAR_HEIGHT
    ));
    text
}

fn colour(contender: Contender) -> &'static str {
    match contender {
        _ if contender.is_llb() => "#2a7",
        Contender::Haproxy | Contender::Nginx => "#c63",
        _ => "#999",
    }
}
