// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench relay`, `e2e`, `flood` and `dns`: llb beside other balancers in one lab and one run, with
//! interleaved rounds. The folder of each benchmark says what is compared. They share what is measured and how:
//! `probe.rs`, `echo.rs`, `cpu.rs`, `programs.rs`, `figures.rs`, `span.rs`.

mod cpu;
mod dns;
mod e2e;
mod echo;
mod figures;
mod flood;
mod probe;
mod programs;
mod relay;
mod snmp;
mod span;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// 128 + SIGINT, the exit status by which shells report that signal.
const INTERRUPTED: i32 = 130;

/// Measures llb beside others. Needs root.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Clone, Debug, Subcommand)]
enum Bench {
    /// The relay beside HAProxy and nginx stream, or its own ways of moving bytes beside each other
    Relay(relay::Arguments),
    /// Every way of forwarding in a one-arm lab: llb's, the kernel's, HAProxy's, nginx's
    E2e(e2e::Arguments),
    /// Connections that are open while a flood of openings goes to the same Service
    Flood(flood::Arguments),
    /// Questions of one packet over UDP, whose answers are sometimes late
    Dns(dns::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("llb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The benchmark runs on a thread of its own, so that this one can clean up whenever a signal arrives.
fn run(arguments: Arguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "it needs root, to create network namespaces");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let bench = tokio::task::spawn_blocking(move || match &arguments.bench {
            Bench::Relay(arguments) => relay::run(arguments),
            Bench::E2e(arguments) => e2e::run(arguments),
            Bench::Flood(arguments) => flood::run(arguments),
            Bench::Dns(arguments) => dns::run(arguments),
        });
        tokio::select! {
            outcome = bench => outcome?,
            _ = interrupt.recv() => interrupted(),
            _ = terminate.recv() => interrupted(),
        }
    })
}

fn interrupted() -> ! {
    llb_tests::lab::remove_all();
    std::process::exit(INTERRUPTED)
}
