// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: shows what llb does, with the real agent, in a lab that touches nothing else on the
//! machine. `steps.rs` has what is shown, `screen.rs` how it looks. This file starts the demo and ends it in
//! order.

#![expect(clippy::disallowed_methods, reason = "the demo shows how long it took")]

mod screen;
mod steps;

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use steps::Stage;

/// 128 + SIGINT, the exit status by which shells report that signal.
const INTERRUPTED: i32 = 130;

/// Set once all steps were shown and everything stays up: whether all steps passed.
static KEPT: OnceLock<bool> = OnceLock::new();

/// Shows llb at work in network namespaces of its own. Needs root.
#[derive(Clone, Copy, Debug, Parser)]
struct Arguments {
    /// Keep everything running afterwards, so that you can try it; Ctrl-C ends it
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("llb-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The demo runs on a thread of its own, so that this one can clean up whenever a signal arrives.
fn run(arguments: Arguments) -> Result<ExitCode> {
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    ensure!(
        rustix::process::geteuid().is_root(),
        "it needs root, to create network namespaces; run: sudo {}",
        this.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shown = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let demo = tokio::task::spawn_blocking(move || show(arguments));
        anyhow::Ok(tokio::select! {
            shown = demo => Some(shown?),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        })
    })?;
    if let Some(passed) = shown {
        return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    // From here on the demo would only print errors about a lab that disappears. Holding the locks keeps it
    // silent.
    let quiet = (std::io::stdout().lock(), std::io::stderr().lock());
    eprintln!("\nRemoving the lab.");
    llb_tests::lab::remove_all();
    std::mem::forget(quiet);
    let code = match KEPT.get() {
        Some(true) => 0,
        Some(false) => 1,
        None => INTERRUPTED,
    };
    // Not a return: the runtime would wait for the demo's thread.
    std::process::exit(code)
}

/// Runs all steps, and returns whether all of them passed.
fn show(arguments: Arguments) -> bool {
    let started = Instant::now();
    let mut stage = match Stage::build() {
        Ok(stage) => stage,
        Err(error) => {
            screen::failed(&error);
            return false;
        }
    };
    let outcome = stage.play(arguments.keep);
    match &outcome {
        Ok(()) => screen::say(&format!("\nAll steps passed, in {:.1} s.", started.elapsed().as_secs_f64())),
        Err(error) => screen::failed(error),
    }
    if arguments.keep {
        KEPT.get_or_init(|| outcome.is_ok());
        stage.explain();
        loop {
            std::thread::park();
        }
    }
    outcome.is_ok()
}
