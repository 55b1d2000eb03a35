// SPDX-License-Identifier: Apache-2.0
//! docs/reference/metrics.md: every metric that the agent's code names, with its type and its HELP text.
//!
//! The code is read as text, because most metrics exist only while a plane, a link or a Service does. A metric whose
//! help or type is not found fails the test.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::documents::{cell, files, head, read, workspace};

/// Names that begin as metrics do: programs and maps in the kernel.
const OTHERS: [&str; 2] = ["llb_xdp", "llb_tc"];

/// One metric.
struct Metric {
    kind: &'static str,
    help: String,
}

pub(crate) fn page() -> String {
    let mut page = head(
        "Metrics",
        "`/metrics` of the [admin endpoint](../operations.md#admin-endpoint) shows them in the format of OpenMetrics or in that of Prometheus, as `Accept` asks. Labels, and more \
         about many of them, are [there](../operations.md#admin-endpoint) and in [What forwards](../datapath.md#seeing-packets).",
    );
    page.push_str("\n| metric | type | |\n|---|---|---|\n");
    for (name, Metric { kind, help }) in metrics() {
        writeln!(page, "| `{name}` | {kind} | {} |", cell(&help)).unwrap();
    }
    page.push_str(EARLIER);
    page
}

/// For readers who have queries for a build before 0.1.0.
const EARLIER: &str = "
## Names of earlier builds

The label `service` was `NAMESPACE/NAME`; it is `namespace` and `service` now.

| before | now |
|---|---|
| `llb_packet_flows_total` | `llb_backend_connections_total{plane=\"packet\"}` |
| `llb_packet_active_flows` | `llb_backend_connections_active{plane=\"packet\"}`: those that are open. How many are remembered: `llb_packet_map_entries{map=\"flows\"}` |
| `llb_packet_packets_total` | `llb_backend_packets_total` |
| `llb_packet_bytes_total` | `llb_backend_bytes_total{plane=\"packet\"}` |
| `llb_packet_failures_total` | `llb_backend_failures_total{plane=\"packet\"}` |
| `llb_frontend_...` and `llb_backend_...` of the relay | the same, with `plane=\"relay\"` |
";

fn metrics() -> BTreeMap<String, Metric> {
    let mut found = BTreeMap::new();
    for path in files("llb-agent/src", "rs") {
        let is_test =
            path.components().any(|part| ["tests", "tests.rs"].iter().any(|test| part.as_os_str() == *test));
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
        if !is_test {
            found.extend(metrics_of(path.strip_prefix(workspace()).unwrap().to_str().unwrap(), text));
        }
    }
    found
}

fn metrics_of(path: &str, text: &str) -> Vec<(String, Metric)> {
    let mut found = Vec::new();
    let places = ["\"llb_", "\"process_"].iter().flat_map(|begin| text.match_indices(begin));
    for (place, _) in places {
        let name = text[place + 1..].split('"').next().unwrap();
        let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name || OTHERS.iter().any(|other| name.starts_with(other)) {
            continue;
        }
        let rest = &text[place + 1 + name.len() + 1..];
        let help = help(&text[..place], rest).unwrap_or_else(|| panic!("{path}: no help of {name}"));
        let kind = kind(text, &text[..place], rest).or_else(|| kind(&neighbours(path), &text[..place], rest));
        let kind = kind.unwrap_or_else(|| panic!("{path}: no type of {name}"));
        let call = rest.split(['\n', '|']).next().unwrap();
        let unit = if call.contains("Unit::Bytes") { "_bytes" } else { "" };
        let total = if kind == "counter" { "_total" } else { "" };
        found.push((format!("{name}{unit}{total}"), Metric { kind, help }));
    }
    found
}

/// All files of the same folder: the field may be defined in another one.
fn neighbours(path: &str) -> String {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    files(folder, "rs").iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// The text that follows the name, or the variable `help` that was set before.
fn help(before: &str, rest: &str) -> Option<String> {
    let next = rest.trim_start_matches([',', ' ', '\n']);
    let literal = match next.starts_with("help") {
        true => &before[before.rfind("let help =")?..],
        false => next,
    };
    let (_, literal) = literal.split_once('"')?;
    literal.split('"').next().map(str::to_owned)
}

/// The type: of the field that is registered, or the one that is named in the call or next.
fn kind(text: &str, before: &str, rest: &str) -> Option<&'static str> {
    let line = before.rsplit(['{', ';', '}']).next()?;
    if line.contains("register(") {
        let call = rest.split(';').next()?;
        let field = call.rsplit_once(".clone()").map_or(call, |(field, _)| field);
        let field = field.rsplit(|c: char| c.is_ascii_whitespace() || c == '(').next()?.trim_end_matches(')');
        // A variable was set to the field before.
        let field = match before.rsplit_once(&format!("let {field} = ")) {
            Some((_, set)) => set.split(".clone()").next()?,
            None => field,
        };
        let field = field.split('.').rfind(|part| *part != "family")?;
        return kind_of_field(text, field);
    }
    if line.contains("counters_by(") {
        return Some("counter");
    }
    if let Some((value, _)) = rest.split(';').next()?.split_once(".metric_type()") {
        return kind_of_field(text, value.rsplit(' ').next()?);
    }
    named(&rest[rest.find("MetricType::")? + "MetricType::".len()..])
}

fn kind_of_field(text: &str, field: &str) -> Option<&'static str> {
    let definition = match field.parse::<usize>() {
        // The only field of a tuple.
        Ok(_) => text
            .lines()
            .find(|line| line.split_once("struct ").is_some_and(|(_, rest)| rest.contains('(')))?,
        Err(_) => text.lines().find(|line| {
            let line = line.trim().trim_start_matches("pub(super) ").trim_start_matches("let ");
            line.strip_prefix(field).is_some_and(|rest| rest.starts_with(": ") || rest.starts_with(" = "))
        })?,
    };
    ["Counter", "Gauge", "Histogram"]
        .iter()
        .find_map(|kind| definition.contains(kind).then(|| named(kind))?)
        .or_else(|| {
            // The type has a name of its own.
            let alias = definition.split(": ").nth(1)?.trim_end_matches(',').split('<').next()?;
            let meaning = text.lines().find(|line| {
                ["type ", "struct ", "pub(super) struct "]
                    .iter()
                    .any(|word| line.strip_prefix(word).is_some_and(|rest| rest.starts_with(alias)))
            })?;
            let body = &text[text.find(meaning)?..];
            named_in(body.split("\n\n").next()?)
        })
}

fn named_in(text: &str) -> Option<&'static str> {
    ["Counter", "Gauge", "Histogram"].iter().find(|kind| text.contains(**kind)).and_then(|kind| named(kind))
}

fn named(text: &str) -> Option<&'static str> {
    let kinds = [("Counter", "counter"), ("Gauge", "gauge"), ("Histogram", "histogram")];
    kinds.iter().find(|(begins, _)| text.starts_with(begins)).map(|(_, kind)| *kind)
}

#[test]
fn every_metric_is_explained() {
    let text = read("docs/operations.md") + &read("docs/datapath.md");
    let is_explained = |name: &String| {
        // Some names are shortened to their ends behind a full one.
        let ends = ["llb_frontend", "llb_backend"].iter().filter_map(|begin| name.strip_prefix(begin));
        text.contains(name.as_str()) || ends.into_iter().any(|end| text.contains(&format!("`{end}")))
    };
    let names: Vec<String> = metrics().into_keys().filter(|name| !is_explained(name)).collect();
    assert_eq!(names, [""; 0], "neither docs/operations.md nor docs/datapath.md has these metrics");
}
