// SPDX-License-Identifier: Apache-2.0
//! docs/reference/problems.md: the reasons of problems, with the words of the code.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::comments::{block, documented};
use crate::documents::{cell, head, read};

const SOURCE: &str = "llb-agent/src/model/problem.rs";

pub(crate) fn page() -> String {
    let mut page = head(
        "Problems",
        "What can be wrong with an object or on the machine. [When something is \
         wrong](../operations.md#when-something-is-wrong) says what to do about each, and where problems are shown: Events, \
         conditions, `/state`, `/readyz`, the log, and the metric `llb_problems{reason}`.",
    );
    page.push_str("\n| reason | meaning |\n|---|---|\n");
    for (reason, meaning) in reasons() {
        writeln!(page, "| {reason} | {} |", cell(&meaning)).unwrap();
    }
    page
}

fn reasons() -> Vec<(String, String)> {
    let text = read(SOURCE);
    let found = documented(block(&text, "pub enum ProblemReason {"), |line| {
        let name = line.strip_suffix(',')?;
        name.chars().all(|c| c.is_ascii_alphanumeric()).then(|| name.to_owned())
    });
    assert!(!found.is_empty(), "{SOURCE} is written in another way now");
    found
}

#[test]
fn operations_says_what_to_do_about_every_problem() {
    let text = read("docs/operations.md");
    let table = text.split("| reason | meaning |").nth(1).unwrap().split("\n\n").next().unwrap();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let named: BTreeSet<String> = cells.flat_map(|cell| cell.split(", ")).map(str::to_owned).collect();
    let known: BTreeSet<String> = reasons().into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(known, named, "the code knows the reasons on the left, docs/operations.md those on the right");
}
