// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench control`: the cost of llb's control side, measured on the real agent in a lab. `rows.rs`
//! has the measurements, `report.rs` the targets and the output. This file runs them and cleans up.

mod report;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use report::Row;

/// Open files of this program and of the agent, which inherits the limit: two for each of 10,000 connections,
/// and some more. If not even root may raise the hard limit, fewer connections are measured.
const OPEN_FILES: u64 = 24_000;

/// Measures llb-agent in network namespaces of its own. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the result goes
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// Only rows whose name contains this
    #[arg(value_name = "NAME")]
    filter: Option<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("llb-bench-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether each row reached its target. A signal removes the lab.
fn run(arguments: Arguments) -> Result<bool> {
    ensure!(rustix::process::geteuid().is_root(), "it needs root, to create network namespaces");
    raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let measured = tokio::task::spawn_blocking(move || measure(&arguments));
        tokio::select! {
            measured = measured => measured?,
            _ = interrupt.recv() => stopped(),
            _ = terminate.recv() => stopped(),
        }
    })
}

fn raise_open_files() -> Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    if hard.is_some_and(|most| most >= OPEN_FILES) {
        let limit = Rlimit { current: Some(OPEN_FILES), maximum: hard };
        return setrlimit(Resource::Nofile, limit).context("cannot set the limit of open files");
    }
    let raised = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        println!("the hard limit of open files cannot be raised; fewer idle connections are measured");
        let most = Rlimit { current: hard, maximum: hard };
        setrlimit(Resource::Nofile, most).context("cannot set the limit of open files")?;
    }
    Ok(())
}

fn stopped() -> ! {
    llb_tests::lab::remove_all();
    std::process::exit(130)
}

fn measure(arguments: &Arguments) -> Result<bool> {
    let mut measured: Vec<Row> = Vec::new();
    for (name, row) in rows::ALL {
        if arguments.filter.as_ref().is_none_or(|part| name.contains(part.as_str())) {
            println!("measuring {name}");
            measured.extend(row().with_context(|| format!("row {name}"))?);
        }
    }
    print!("{}", report::table(&measured));
    report::write_json(&arguments.json, &measured)?;
    println!("\n{}", arguments.json.display());
    Ok(measured.iter().all(Row::passes))
}
