// SPDX-License-Identifier: Apache-2.0
//! Findings as text for people, in 80 columns, and as JSON. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use super::finding::{Finding, Level};

const WIDTH: usize = 80;
/// Where the text begins: after the level and the name of the check.
const INDENT: usize = 9 + 18;

/// The JSON form.
#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    errors: usize,
    warnings: usize,
    skipped: usize,
    findings: &'a [Finding],
}

/// One paragraph for each finding, then how many there are.
pub(super) fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        write_finding(&mut text, finding);
    }
    let [ok, skipped, warnings, errors] =
        [Level::Ok, Level::Skipped, Level::Warning, Level::Error].map(|level| count(findings, level));
    let _ = writeln!(text, "\nerrors: {errors}, warnings: {warnings}, skipped: {skipped}, ok: {ok}");
    text
}

pub(super) fn json(findings: &[Finding]) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&Report {
        version: env!("CARGO_PKG_VERSION"),
        errors: count(findings, Level::Error),
        warnings: count(findings, Level::Warning),
        skipped: count(findings, Level::Skipped),
        findings,
    })
}

/// How many there are of this level.
pub(super) fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

fn write_finding(text: &mut String, finding: &Finding) {
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Skipped => "skipped",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    let object = finding.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
    let mut start = format!("{level:<9}{:<18}", finding.check);
    let why = finding.why.map(|why| format!("Why: {why}."));
    let action = finding.action.as_ref().map(|action| format!("Do: {action}."));
    let what = format!("{object}{}", finding.what);
    for paragraph in [Some(what), why, action].into_iter().flatten() {
        for line in wrapped(&printable(&paragraph), WIDTH - INDENT) {
            let _ = writeln!(text, "{start}{line}");
            start = " ".repeat(INDENT);
        }
    }
}

/// Escapes text that comes from other hosts and tenants: it could control the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Wraps a text to lines of at most `width` characters. A longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { continue };
        let length = line.chars().count();
        if length == 0 {
            line.push_str(word);
        } else if length + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::check::CheckId;
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok(CheckId::Rights, "the process has all rights that llb needs"),
            Finding::error(CheckId::LinkCarrier, "it is down", "ip link set eth0 up").of("eth0"),
            Finding::warning(CheckId::LinkMtu, "MTU 9000\u{1b}[2J is more than 3498", "lower it").of("eth0"),
        ]
    }

    #[test]
    fn the_table_is_aligned_and_fits_into_80_columns() {
        let text = table(&findings());
        assert_eq!(
            text,
            "\
ok       rights            the process has all rights that llb needs
error    link-carrier      eth0: it is down
                           Why: nobody can reach VIPs on it.
                           Do: ip link set eth0 up.
warning  link-mtu          eth0: MTU 9000\u{fffd}[2J is more than 3498
                           Why: many drivers take no XDP program if a frame does
                           not fit into one page.
                           Do: lower it.

errors: 1, warnings: 1, skipped: 0, ok: 1
"
        );
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn json_has_the_same_words() {
        let json: serde_json::Value = serde_json::from_str(&json(&findings()).unwrap()).unwrap();
        assert_eq!((&json["errors"], &json["warnings"]), (&1.into(), &1.into()));
        let first = &json["findings"][1];
        assert_eq!(first["check"], "link-carrier");
        assert_eq!(first["level"], "error");
        assert_eq!((&first["object"], &first["do"]), (&"eth0".into(), &"ip link set eth0 up".into()));
    }
}
