// SPDX-License-Identifier: Apache-2.0
//! The agent in a real Kubernetes, as a user sees it: kubectl on one side, curl on the other. One cluster
//! serves all cases, one after the other; each has its own namespace, balancer host and VIPs.
//!
//! This is not a libtest target, because the shared cluster must end after the last case. It takes those
//! arguments of libtest that are of use: a part of a name, `--exact`, `--list`, `--ignored`,
//! `--include-ignored`.

#![expect(clippy::disallowed_methods, reason = "tests wait and measure by the real clock")]

mod arguments;
mod case;
mod cases;
mod kubelet;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};
use llb_tests::Lab;
use llb_tests::cluster::Cluster;

use arguments::Arguments;
use case::Case;
use cases::Named;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let all = cases::all();
    let chosen: Vec<&Named> = all.iter().filter(|case| arguments.selects(case.name)).collect();
    if arguments.list {
        chosen.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    if !arguments.run_ignored {
        for case in &chosen {
            println!("test {} ... ignored, needs root: cargo xtask test", case.name);
        }
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored", chosen.len());
        return ExitCode::SUCCESS;
    }
    match run(&chosen) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("failed: the cluster did not start: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all cases passed. The lab is gone when this returns.
fn run(chosen: &[&Named]) -> Result<bool> {
    if chosen.is_empty() {
        println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored");
        return Ok(true);
    }
    let started = Instant::now();
    llb_tests::lab::clean_up_on_signal()?;
    let mut lab = Lab::new()?;
    let mut cluster = Cluster::start(&mut lab)?;
    let _servers = case::start_echo(&lab)?;
    println!("(cluster ready after {:.1?})", started.elapsed());

    let mut failures = Vec::new();
    for (number, named) in (0u8..).zip(chosen) {
        let case_started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut case = Case::new(number, named.name, &mut lab, &mut cluster)?;
            (named.run)(&mut case).inspect_err(|_| case.explain())
        }))
        .unwrap_or_else(|_| Err(anyhow!("panicked, see above")));
        match result {
            Ok(()) => println!("test {} ... ok ({:.1?})", named.name, case_started.elapsed()),
            Err(error) => {
                // Before the line with the result: what is printed before it belongs to this test.
                println!(
                    "failed: {error:#}\ntest {} ... FAILED ({:.1?})\n",
                    named.name,
                    case_started.elapsed()
                );
                failures.push(named.name);
            }
        }
    }
    println!("\nfailures: {failures:?}");
    println!(
        "test result: {}. {} passed; {} failed; 0 ignored; finished in {:.1?}",
        if failures.is_empty() { "ok" } else { "FAILED" },
        chosen.len() - failures.len(),
        failures.len(),
        started.elapsed(),
    );
    Ok(failures.is_empty())
}
