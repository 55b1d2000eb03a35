// SPDX-License-Identifier: Apache-2.0
//! The page docs/kernels.md, as text. What was not run is not called run.

use std::fmt::Write as _;

use crate::result::{Check, Findings, Outcome, Place};

const INTRODUCTION: &str = "\
Kernels of distributions, each in a virtual machine with a real agent, real traffic and QEMU's network cards.
`cargo xtask test --only kernels` runs them and writes this page; nobody edits it by hand. With `--whole` it makes all checks with
all cards and runs more programs. [design/tests.md](design/tests.md) says how the machines are made.
";

/// A distribution, and the series of its kernel.
struct Distribution {
    name: &'static str,
    series: &'static str,
    /// Whether the kernels of this series that are run come from its archive.
    is_source: bool,
    /// What follows from the version, if that series was not run.
    by_version: &'static str,
}

const NEWER: &str = "not run; it has all that the packet plane needs";

const DISTRIBUTIONS: [Distribution; 6] = [
    Distribution { name: "Debian 13", series: "6.12", is_source: false, by_version: NEWER },
    Distribution {
        name: "Debian 12 with its newer kernel",
        series: "6.12",
        is_source: true,
        by_version: NEWER,
    },
    Distribution { name: "Debian 12", series: "6.1", is_source: true, by_version: "not run" },
    Distribution { name: "Ubuntu 24.04", series: "6.8", is_source: false, by_version: NEWER },
    Distribution {
        name: "Ubuntu 22.04",
        series: "5.15",
        is_source: false,
        by_version: "not run; by its version TC by clsact, and no XDP, which needs 5.18",
    },
    Distribution {
        name: "RHEL 9 and its relatives",
        series: "5.14",
        is_source: false,
        by_version: "not run; it has much of newer kernels, so the version says little: `llb-agent` logs what it finds",
    },
];

/// What an ability that is missing costs.
const COSTS: [(&str, &str); 4] = [
    ("XDP in the card's driver", "packets are forwarded at TC, which costs more CPU time for each packet"),
    (
        "packet plane",
        "every connection is relayed: nodes see the agent's address, a crash of the agent ends connections, and mode dsr is not possible",
    ),
    ("sockmap", "the relay moves all bytes itself, which costs more CPU time for each byte"),
    ("IFA_PROTO (since 5.18)", "the agent keeps the list of its addresses in a file"),
];

/// The whole page. `agent` is what `llb-agent --version` prints, `date` is today as YYYY-MM-DD. `is_whole`: all checks were
/// made with all cards.
pub(crate) fn page(agent: &str, date: &str, is_whole: bool, findings: &Findings) -> String {
    let mut page = Page { text: String::new(), reasons: Vec::new() };
    let extent = if is_whole { "with --whole" } else { "without --whole" };
    let text = format!(
        "<!-- SPDX-License-Identifier: Apache-2.0 -->\n# Kernels\n\n{INTRODUCTION}\n{agent}, {date}, {extent}.\n"
    );
    page.text.push_str(&text);
    page.kernels(findings);
    page.choices(findings);
    page.traffic(findings);
    page.programs(findings);
    page.distributions(findings);
    page.costs();
    page.end()
}

struct Page {
    text: String,
    reasons: Vec<String>,
}

impl Page {
    fn heading(&mut self, title: &str, columns: &[&str]) {
        let _ = write!(
            self.text,
            "\n## {title}\n\n| {} |\n|{}\n",
            columns.join(" | "),
            "---|".repeat(columns.len())
        );
    }

    fn row(&mut self, cells: &[String]) {
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    fn kernels(&mut self, findings: &Findings) {
        self.heading("Kernels that were run", &["Linux", "what it says"]);
        for (series, version) in &findings.versions {
            self.row(&[series.clone(), version.clone()]);
        }
    }

    fn choices(&mut self, findings: &Findings) {
        self.heading(
            "What `--datapath auto` takes",
            &["Linux", "card", "plane", "why, in the agent's words"],
        );
        for choice in &findings.choices {
            let (card, hook) = (choice.place.card.name().to_owned(), choice.place.hook().to_owned());
            self.row(&[choice.series.clone(), card, hook, one_line(&choice.why)]);
        }
    }

    fn traffic(&mut self, findings: &Findings) {
        let checks: Vec<&Check> = findings.checks.iter().filter(|check| check.place.is_some()).collect();
        let names = distinct(checks.iter().map(|check| check.name.as_str()));
        let columns: Vec<&str> =
            ["Linux", "card", "plane"].into_iter().chain(names.iter().copied()).collect();
        self.heading("Traffic", &columns);
        let mut rows: Vec<(&str, &Place)> = Vec::new();
        for check in &checks {
            let Some(place) = &check.place else { continue };
            if !rows.contains(&(check.series.as_str(), place)) {
                rows.push((&check.series, place));
            }
        }
        for (series, place) in rows {
            let of_row = |check: &&&Check| check.series == series && check.place.as_ref() == Some(place);
            let outcomes =
                names.iter().map(|name| checks.iter().filter(of_row).find(|check| check.name == *name));
            let outcomes: Vec<Option<Outcome>> =
                outcomes.map(|check| check.map(|check| check.outcome.clone())).collect();
            let mut cells = vec![series.to_owned(), place.card.name().to_owned(), place.hook().to_owned()];
            cells.extend(outcomes.into_iter().map(|outcome| self.cell(outcome)));
            self.row(&cells);
        }
        self.text.push_str(TRAFFIC);
    }

    fn programs(&mut self, findings: &Findings) {
        let series: Vec<String> = distinct(findings.versions.iter().map(|(series, _)| series.clone()));
        let checks: Vec<&Check> = findings.checks.iter().filter(|check| check.place.is_none()).collect();
        let columns: Vec<&str> = ["check"].into_iter().chain(series.iter().map(String::as_str)).collect();
        self.heading("Boot, demo and scenarios of the lab", &columns);
        for name in distinct(checks.iter().map(|check| check.name.as_str())) {
            let mut cells = vec![name.replace("::", ": ").replace('_', " ")];
            for series in &series {
                let check = checks.iter().find(|check| check.series == *series && check.name == name);
                cells.push(self.cell(check.map(|check| check.outcome.clone())));
            }
            self.row(&cells);
        }
        self.text.push_str(PROGRAMS);
    }

    fn distributions(&mut self, findings: &Findings) {
        self.heading("Distributions", &["distribution", "Linux", "how it is known"]);
        for Distribution { name, series, is_source, by_version } in DISTRIBUTIONS {
            let run = findings.versions.iter().any(|(known, _)| known == series);
            let known = match (run, is_source) {
                (true, true) => format!("run: see the rows of {series}"),
                (true, false) => format!(
                    "not run; the rows of {series} are of the same version, built by another distribution release"
                ),
                (false, _) => by_version.to_owned(),
            };
            self.row(&[name.to_owned(), series.to_owned(), known]);
        }
    }

    fn costs(&mut self) {
        self.heading("What a lack costs", &["without", "what happens"]);
        for (lack, cost) in COSTS {
            self.row(&[lack.to_owned(), cost.to_owned()]);
        }
    }

    fn cell(&mut self, outcome: Option<Outcome>) -> String {
        let (word, reason) = match outcome {
            None => return "-".to_owned(),
            Some(Outcome::Right) => return "right".to_owned(),
            Some(Outcome::ByHand(reason)) => ("by hand", one_line(reason)),
            Some(Outcome::Known(reason)) => ("no", one_line(reason)),
            Some(Outcome::Wrong(what)) => ("FAILED", one_line(&what)),
        };
        let index = self.reasons.iter().position(|known| *known == reason).unwrap_or_else(|| {
            self.reasons.push(reason);
            self.reasons.len() - 1
        });
        format!("{word} ({})", index + 1)
    }

    fn end(mut self) -> String {
        if !self.reasons.is_empty() {
            self.text.push_str("\n## Reasons\n");
        }
        for (number, reason) in (1..).zip(&self.reasons) {
            let _ = write!(self.text, "\n{number}. {reason}");
        }
        if !self.reasons.is_empty() {
            self.text.push('\n');
        }
        self.text
    }
}

const TRAFFIC: &str = "
`nat` and `dsr`: requests reach both nodes; 8 MiB up and 8 MiB down, alone and four streams together, with equal hashes at both ends;
datagrams of 1 to 9000 bytes come back unchanged; all over IPv4 and IPv6. Restart: downloads and requests go on while the agent is killed,
started again, and replaced by a handover; none is lost. MTU: it is raised to 9000 while streams run; they go on, and new ones use such
frames. `-`: not run, or not possible on that plane.
";

const PROGRAMS: &str = "
A small stand-in takes curl's place in the machines: emulated ones need a second to start the real one.
";

/// What a table's cell can hold.
fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    if line.chars().count() <= MOST { line } else { line.chars().take(MOST).chain("...".chars()).collect() }
}

fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut known = Vec::new();
    for one in all {
        if !known.contains(&one) {
            known.push(one);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::Card;
    use crate::result::Choice;

    #[test]
    fn every_cell_says_something() {
        let place = Place { card: Card::E1000e, hook: Some("tc".to_owned()) };
        let check = |name: &str, outcome| Check {
            series: "6.12".to_owned(),
            place: Some(place.clone()),
            name: name.to_owned(),
            outcome,
        };
        let findings = Findings {
            versions: vec![("6.12".to_owned(), "Linux 6.12.1".to_owned())],
            choices: vec![Choice {
                series: "6.12".to_owned(),
                place: place.clone(),
                why: "no xdp:\na | b".to_owned(),
            }],
            checks: vec![check("nat", Outcome::Right), check("dsr", Outcome::Wrong("a hash".to_owned()))],
        };
        let page = page("llb-agent 0.1.0", "2026-01-02", false, &findings);
        for line in [
            "| 6.12 | e1000e | tc | no xdp: a / b |",
            "| 6.12 | e1000e | tc | right | FAILED (1) |",
            "| Debian 12 with its newer kernel | 6.12 | run: see the rows of 6.12 |",
            "| Debian 12 | 6.1 | not run |",
            "1. a hash",
        ] {
            assert!(page.lines().any(|known| known == line), "{line}: {page}");
        }
    }
}
