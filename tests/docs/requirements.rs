// SPDX-License-Identifier: Apache-2.0
//! The table of requirements in README.md says what the project's own files say.

use std::collections::BTreeSet;

use crate::documents::read;

/// The cells of the row whose first cell begins with this.
fn row(text: &str, first: &str) -> Vec<String> {
    let begins = format!("| {first}");
    let line =
        text.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("no row {first}"));
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// What follows `begin` on its line, up to a space or a quotation mark.
fn value(text: &str, begin: &str) -> String {
    let start = text.find(begin).unwrap_or_else(|| panic!("there is no `{begin}`")) + begin.len();
    text[start..].split(['"', ' ', '\n']).next().unwrap().to_owned()
}

#[test]
fn kernels_are_those_that_were_run() {
    let kernels = read("docs/kernels.md");
    let table = kernels.split("## Kernels that were run").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let run: BTreeSet<&str> = rows.filter(|cell| cell.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert!(!run.is_empty());
    let readme = read("README.md");
    for first in ["Linux, packets forwarded at TC", "Linux, packets forwarded at XDP", "Linux, relay only"] {
        let cells = row(&readme, first);
        let tried: BTreeSet<&str> = cells[2].split(", ").collect();
        assert_eq!(tried, run, "{first}");
    }
}

#[test]
fn first_kernels_are_those_of_the_datapath() {
    let (readme, datapath) = (read("README.md"), read("docs/datapath.md"));
    for (ours, theirs) in [
        ("Linux, packets forwarded at TC", "the program at TC"),
        ("Linux, packets forwarded at XDP", "the program at XDP"),
    ] {
        let needed = row(&readme, ours)[1].split(',').next().unwrap().to_owned();
        assert_eq!(needed, row(&datapath, theirs)[1], "{ours}");
    }
}

#[test]
fn rights_are_those_of_operations() {
    let cells = row(&read("README.md"), "rights");
    let operations = read("docs/operations.md");
    let table = operations.split("| capability | for |").nth(1).unwrap().split("\n\n").next().unwrap();
    let named = cells[1]
        .split(|c: char| !(c.is_ascii_uppercase() || c == '_'))
        .filter(|word| word.starts_with("CAP_"));
    let named: Vec<&str> = named.collect();
    assert_eq!(named.len(), 5, "{named:?}");
    for capability in named {
        assert!(table.contains(capability), "docs/operations.md does not explain {capability}");
    }
}

#[test]
fn versions_are_those_that_tests_use() {
    let readme = read("README.md");
    let go = read("tests/cluster-binaries/go.mod");
    assert_eq!(row(&readme, "Kubernetes")[2], value(&go, "k8s.io/kubernetes v"));
    let version = value(&go, "\ngo ");
    assert_eq!(row(&readme, "Go,")[1], version.trim_end_matches(".0"));
    let rust = value(&read("rust-toolchain.toml"), "channel = \"");
    let cells = row(&readme, "Rust,");
    assert_eq!(cells[1].split(';').next().unwrap(), rust);
    assert_eq!(cells[2], rust);
    let conformance = read("docs/conformance.md");
    assert_eq!(row(&readme, "Kubernetes")[2], value(&conformance, "\nKubernetes ").trim_end_matches(','));
}
