// SPDX-License-Identifier: Apache-2.0
//! The documents say what the code does. Needs no privileges.
//!
//! The pages of docs/reference/ are written from the code: `LLB_BLESS=1 cargo test -p llb-tests --test docs` writes
//! them, and without that variable the test fails if they are not up to date. Commands, manifests and versions in
//! hand-written pages are tried or compared. What a sentence says is not checked by anything.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod annotations;
mod blocks;
mod commands;
mod comments;
mod doctor;
mod documents;
mod examples;
mod flags;
mod manifests;
mod metrics;
mod problems;
mod requirements;
mod restarts;

use documents::workspace;
use llb_tests::environment::blesses_golden_cases;

#[test]
fn reference_pages_are_those_of_the_code() {
    let pages = [
        ("docs/reference/flags.md", flags::page()),
        ("docs/reference/annotations.md", annotations::page()),
        ("docs/reference/metrics.md", metrics::page()),
        ("docs/reference/problems.md", problems::page()),
        ("docs/reference/doctor.md", doctor::page()),
    ];
    let mut stale = Vec::new();
    for (path, page) in pages {
        let file = workspace().join(path);
        let present = std::fs::read_to_string(&file).unwrap_or_default();
        if present == page {
            continue;
        }
        if blesses_golden_cases() {
            std::fs::write(&file, page).unwrap();
        } else {
            let pairs = page.lines().zip(present.lines().chain(std::iter::repeat("(end)")));
            let first = pairs.into_iter().find(|(page, present)| page != present);
            stale.push(format!("{path}: {}", first.map_or("(end)", |(page, _)| page)));
        }
    }
    assert!(
        stale.is_empty(),
        "these pages are stale; LLB_BLESS=1 cargo test -p llb-tests --test docs writes them. First lines that differ:\n{}",
        stale.join("\n")
    );
}
