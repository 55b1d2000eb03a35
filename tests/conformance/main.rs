// SPDX-License-Identifier: Apache-2.0
//! The LoadBalancer tests of Kubernetes itself, on every plane. The run judges nothing by itself: the tests do, and
//! `expected.rs` knows what cannot pass. A whole run writes docs/conformance.md.
//!
//! Only `cargo xtask test --only conformance` runs this: their program takes a quarter of an hour to compile.

#![expect(clippy::disallowed_methods, reason = "the run says how long it took")]

mod api;
mod expected;
mod kubelet;
mod planes;
mod report;
mod scheduler;
mod stage;
mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use llb_tests::cluster::{KUBERNETES_VERSION, program};
use llb_tests::{agent, environment, lab};

use expected::{Verdict, judge};
use planes::{COLUMNS, Column};
use report::Row;
use stage::Stage;
use suite::{Outcome, Suite};

/// Tests that run at the same time. Most of their time they wait.
const LANES: usize = 6;

#[test]
#[ignore = "needs root and the tests' program: cargo xtask test --only conformance"]
fn the_tests_of_kubernetes_pass_on_every_plane() {
    let filter = environment::conformance_filter().unwrap_or_default();
    if let Err(error) = run(&filter) {
        panic!("{error:#}");
    }
}

/// Runs the tests whose column or name contains `filter`.
fn run(filter: &str) -> Result<()> {
    lab::clean_up_on_signal()?;
    let (e2e, agnhost) = (program("e2e.test")?, program("agnhost")?);
    let mut rows: Vec<Row> = Vec::new();
    let is_column = COLUMNS.iter().any(|column| column.name.contains(filter));
    let chosen: Vec<Column> =
        COLUMNS.into_iter().filter(|column| !is_column || column.name.contains(filter)).collect();
    for column in &chosen {
        let started = Instant::now();
        let stage = Stage::start(column, &agnhost).with_context(|| column.name)?;
        let suite = stage.suite(&e2e);
        let tests = suite.list()?;
        ensure!(!tests.is_empty(), "the program has no LoadBalancer tests");
        if rows.is_empty() {
            rows.extend(tests.iter().map(|test| Row { test: test.clone(), verdicts: Vec::new() }));
            rows.retain(|row| is_column || row.test.0.contains(filter));
        }
        let verdicts = run_all(column, &suite, &rows);
        let failed = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Wrong(_)));
        for (row, verdict) in rows.iter_mut().zip(verdicts) {
            row.verdicts.push(verdict);
        }
        if failed {
            println!("--- the agent's log on {}:\n{}", column.name, stage.agent().log());
        }
        stage.check_plane(column)?;
        println!("({} took {:.0?})", column.name, started.elapsed());
    }
    finish(filter, &chosen, &rows)
}

/// Runs the tests of all rows, [`LANES`] at a time, and prints each verdict.
fn run_all(column: &Column, suite: &Suite, rows: &[Row]) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts: Vec<Mutex<Option<Verdict>>> = rows.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some((number, row)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    rows.get(number).map(|row| (number, row))
                } {
                    let verdict = run_one(column, suite, number, row);
                    if let Ok(mut place) = verdicts[number].lock() {
                        *place = Some(verdict);
                    }
                }
            });
        }
    });
    let missing = || Verdict::Wrong("it did not run".to_owned());
    verdicts.into_iter().map(|place| place.into_inner().ok().flatten().unwrap_or_else(missing)).collect()
}

fn run_one(column: &Column, suite: &Suite, number: usize, row: &Row) -> Verdict {
    let started = Instant::now();
    let outcome = suite.test(number, &row.test);
    let outcome = outcome.unwrap_or_else(|error| Outcome::Fail(format!("{error:#}")));
    let verdict = judge(&row.test.short(), column, &outcome);
    println!("test {}: {} ... {verdict:?} ({:.0?})", column.name, row.test.short(), started.elapsed());
    if matches!(verdict, Verdict::Wrong(_)) {
        let log = fs::read_to_string(suite.log(number)).unwrap_or_else(|error| error.to_string());
        println!("--- the test's log:\n{log}");
    }
    verdict
}

/// Writes the page after a whole run. Fails if a verdict was wrong.
fn finish(filter: &str, columns: &[Column], rows: &[Row]) -> Result<()> {
    let version = output(&agent::binary()?, &["-V"])?;
    let date = output(Path::new("date"), &["--utc", "+%Y-%m-%d"])?;
    let page = report::page(&version, &date, columns, rows);
    println!("\n{page}");
    if filter.is_empty() {
        let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let wrong =
        rows.iter().flat_map(|row| &row.verdicts).filter(|verdict| matches!(verdict, Verdict::Wrong(_)));
    match wrong.count() {
        0 => Ok(()),
        count => Err(anyhow!("{count} results of Kubernetes {KUBERNETES_VERSION} are not as expected")),
    }
}

fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{}: {}", program.display(), output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
