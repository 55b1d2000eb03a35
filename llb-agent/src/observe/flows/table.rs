// SPDX-License-Identifier: Apache-2.0
//! Rows of flows as aligned text.

use std::fmt::Write as _;

use super::rows::{CountRow, FlowSummary, Flows};
use crate::observe::table::{aligned, span};

/// One line for each flow, and one that says how many more there are.
pub fn flows_table(found: &Flows) -> String {
    let head = ["CLIENT", "VIP:PORT", "SERVICE", "BACKEND", "IDLE", "STATE"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for flow in &found.flows {
        lines.push(vec![
            flow.client.clone(),
            flow.frontend.clone(),
            flow.service.clone().unwrap_or_else(|| "-".to_owned()),
            flow.backend.clone(),
            span(flow.idle_seconds.into()),
            flow.state.to_string(),
        ]);
    }
    let mut text = aligned(&lines);
    say_more(&mut text, found.more, "flow");
    text
}

/// A table for each kind.
pub fn summary_table(summary: &FlowSummary) -> String {
    let mut text = format!("{}\n", counted(summary.flows, "flow"));
    let tables = [
        ("CLIENT", &summary.clients, summary.more_clients, "client"),
        ("BACKEND", &summary.backends, summary.more_backends, "backend"),
        ("SERVICE", &summary.services, summary.more_services, "Service"),
    ];
    for (head, rows, more, noun) in tables.into_iter().filter(|(_, rows, ..)| !rows.is_empty()) {
        text.push('\n');
        text.push_str(&aligned(&count_lines(head, rows, summary.flows)));
        say_more(&mut text, more, noun);
        if noun == "client" && summary.flows_of_uncounted_clients > 0 {
            let flows = counted(summary.flows_of_uncounted_clients, "flow");
            let _ = writeln!(text, "... and {flows} of further clients, which are not counted one by one");
        }
    }
    text
}

fn count_lines(head: &str, rows: &[CountRow], all: u64) -> Vec<Vec<String>> {
    let mut lines = vec![[head, "FLOWS", "SHARE"].map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        let percent = row.flows as f64 * 100.0 / all.max(1) as f64;
        vec![row.name.clone(), row.flows.to_string(), format!("{percent:.1}%")]
    }));
    lines
}

fn say_more(text: &mut String, more: u64, noun: &str) {
    if more > 0 {
        let _ = writeln!(text, "... and {} more (--limit)", counted(more, noun));
    }
}

fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FlowState;
    use crate::observe::FlowRow;

    #[test]
    fn a_table_shows_each_flow_and_how_many_are_left_out() {
        let row = FlowRow {
            client: "198.51.100.10:40000".to_owned(),
            frontend: "192.0.2.100:80/TCP".to_owned(),
            service: Some("default/web".to_owned()),
            backend: "192.0.2.31:30080".to_owned(),
            idle_seconds: 65,
            state: FlowState::Open,
        };
        let flows = vec![row.clone(), FlowRow { service: None, state: FlowState::Closed, ..row }];
        assert_eq!(
            flows_table(&Flows { flows, more: 1 }),
            "\
CLIENT               VIP:PORT            SERVICE      BACKEND           IDLE  STATE
198.51.100.10:40000  192.0.2.100:80/TCP  default/web  192.0.2.31:30080  1m5s  open
198.51.100.10:40000  192.0.2.100:80/TCP  -            192.0.2.31:30080  1m5s  closed
... and 1 flow more (--limit)
"
        );
    }

    #[test]
    fn a_summary_shows_shares() {
        let row = |name: &str, flows| CountRow { name: name.to_owned(), flows };
        let summary = FlowSummary {
            flows: 3,
            clients: vec![row("198.51.100.10", 2)],
            more_clients: 1,
            backends: vec![row("192.0.2.31:30080", 3)],
            ..FlowSummary::default()
        };
        assert_eq!(
            summary_table(&summary),
            "\
3 flows

CLIENT         FLOWS  SHARE
198.51.100.10  2      66.7%
... and 1 client more (--limit)

BACKEND           FLOWS  SHARE
192.0.2.31:30080  3      100.0%
"
        );
        assert_eq!(summary_table(&FlowSummary::default()), "0 flows\n");
    }
}
