//! `cargo xtask bench relay`: llb in user space beside HAProxy and nginx
//! stream. One lab, one run, all balancers up all the time, rounds interleaved
//! (each probe goes round all balancers before the next one starts). What is
//! measured is in `probe.rs`, what it is compared with in `balancer.rs`, what
//! the numbers look like in `report.rs`.

mod balancer;
mod echo;
mod load;
mod probe;
mod report;
mod ways;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use balancer::Stage;
use probe::Probe;
use report::Report;

/// 128 + SIGINT, as a shell counts it.
const INTERRUPTED: i32 = 130;

/// Longer than that is no bench that one waits for.
const MAX_ROUNDS: u32 = 50;
const MAX_SECONDS: u32 = 60;

/// Measures the relay beside HAProxy and nginx stream. Needs root.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ROUNDS)))]
    rounds: u32,
    /// How long one probe at one balancer takes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SECONDS)))]
    seconds: u32,
    /// Compare llb's own ways to move bytes instead: copy, splice, sockmap
    #[arg(long)]
    ways: bool,
    /// With --ways: only what is measured under a name that contains this
    #[arg(long, requires = "ways")]
    probe: Option<String>,
    /// Where relay.json and relay.svg are written
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
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

/// The bench runs on a thread of its own, so that this one can clean up at any
/// moment when a signal comes.
fn run(arguments: Arguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "it needs root, to create network namespaces");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let bench = tokio::task::spawn_blocking(move || measure(&arguments));
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

fn measure(arguments: &Arguments) -> Result<()> {
    if arguments.ways {
        return ways::run(arguments.rounds, arguments.seconds, arguments.probe.as_deref());
    }
    let stage = Stage::build()?;
    let mut report = Report::new(arguments.rounds, arguments.seconds);
    for round in 1..=arguments.rounds {
        for probe in Probe::ALL {
            eprintln!("round {round} of {}: {}", arguments.rounds, probe.title());
            for (balancer, address) in stage.balancers() {
                if !probe.suits(balancer) {
                    continue;
                }
                let values = probe
                    .run(stage.client(), address, arguments.seconds)
                    .with_context(|| format!("{} by {}\n{}", probe.title(), balancer.name(), stage.logs()))?;
                report.add(balancer, &values);
            }
        }
    }
    drop(stage);
    println!("{}", report.table());
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    for (file, content) in [("relay.json", report.json()), ("relay.svg", report.svg())] {
        let path = arguments.out.join(file);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
