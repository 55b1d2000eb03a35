// SPDX-License-Identifier: Apache-2.0
//! The page docs/conformance.md, as text.

use std::fmt::Write as _;

use llb_tests::cluster::KUBERNETES_VERSION;

use crate::expected::Verdict;
use crate::planes::Column;
use crate::suite::Name;

/// One row of the table: a test, and its verdict for each column.
pub(crate) struct Row {
    pub(crate) test: Name,
    pub(crate) verdicts: Vec<Verdict>,
}

const INTRODUCTION: &str = "\
These are the LoadBalancer tests of Kubernetes itself (`k8s.io/kubernetes/test/e2e/network`), run from their own
program against llb in a cluster of network namespaces. `cargo xtask test --only conformance` runs them and writes this
page; nobody edits it by hand. [design/tests.md](design/tests.md) says what the cluster is made of.

`--finalizer on` is set, because one test is about it. A number leads to the reason why a test does not pass on a plane.
";

/// The whole page. `agent` is what `llb-agent --version` prints, `date` is today as YYYY-MM-DD.
pub(crate) fn page(agent: &str, date: &str, columns: &[Column], rows: &[Row]) -> String {
    let mut text = format!(
        "<!-- SPDX-License-Identifier: Apache-2.0 -->\n# Conformance\n\n{INTRODUCTION}\n\
         Kubernetes {KUBERNETES_VERSION}, {agent}, {date}.\n\n"
    );
    let mut reasons: Vec<&str> = Vec::new();
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    let _ = writeln!(text, "| test | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for row in rows {
        let cells: Vec<String> = row.verdicts.iter().map(|verdict| cell(verdict, &mut reasons)).collect();
        let _ = writeln!(text, "| {} | {} |", row.test.short(), cells.join(" | "));
    }
    for (number, reason) in (1..).zip(&reasons) {
        let _ = write!(text, "\n{number}. {reason}");
    }
    if !reasons.is_empty() {
        text.push('\n');
    }
    text
}

fn cell<'a>(verdict: &'a Verdict, reasons: &mut Vec<&'a str>) -> String {
    let (word, reason) = match verdict {
        Verdict::Pass => return "pass".to_owned(),
        Verdict::Known(reason) => ("no", reason),
        Verdict::Skipped(reason) => ("skipped", reason),
        Verdict::Wrong(what) => ("FAILED", what),
    };
    let index = reasons.iter().position(|known| *known == reason).unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    });
    format!("{word} ({})", index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planes::COLUMNS;

    #[test]
    fn every_cell_says_something() {
        let verdicts = vec![
            Verdict::Pass,
            Verdict::Skipped("a reason".to_owned()),
            Verdict::Wrong("failed: x".to_owned()),
        ];
        let test = Name("[sig-network] LoadBalancers [Feature:LoadBalancer] should work [Slow]".to_owned());
        let page = page("llb-agent 0.1.0", "2026-01-02", &COLUMNS[..3], &[Row { test, verdicts }]);
        assert!(page.contains("\n| should work | pass | skipped (1) | FAILED (2) |\n"), "{page}");
        assert!(page.ends_with("\n1. a reason\n2. failed: x\n"), "{page}");
    }
}
