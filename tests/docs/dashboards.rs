// SPDX-License-Identifier: Apache-2.0
//! The dashboards ask for metrics and labels that exist. How they look is not checked by anything.

use serde_json::Value;

use crate::documents::{files, read};
use crate::metrics;

/// What Prometheus adds to each series of an agent, or to those of a histogram.
const OF_PROMETHEUS: [&str; 2] = ["instance", "le"];

/// All queries of a dashboard.
fn queries(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The words of a query that begin like a metric.
fn metrics_of(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("llb_"))
}

/// The labels by which a query sums.
fn labels_of(query: &str) -> impl Iterator<Item = &str> {
    let lists = query.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(", "))
}

/// The labels that the documents name in braces behind a metric.
fn documented_labels() -> Vec<String> {
    let text = read("docs/operations.md") + &read("docs/datapath.md");
    let lists = text.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    lists.flat_map(|list| list.split(',')).map(|label| label.trim().to_owned()).collect()
}

#[test]
fn dashboards_ask_for_what_exists() {
    let (names, labels) = (metrics::names(), documented_labels());
    let mut asked = 0;
    for path in files("deploy", "json").iter().filter(|path| path.parent().unwrap().ends_with("dashboards")) {
        for query in queries(path) {
            for metric in metrics_of(&query) {
                let series = metric.strip_suffix("_bucket").unwrap_or(metric);
                assert!(names.iter().any(|name| name == series), "{metric} does not exist: {query}");
                asked += 1;
            }
            for label in labels_of(&query) {
                let exists = OF_PROMETHEUS.contains(&label) || labels.iter().any(|known| known == label);
                assert!(exists, "no document names the label {label}: {query}");
            }
        }
    }
    assert!(asked > 20, "{asked} metrics");
}
