//! `cargo xtask bench packet`: what the packet programs take of a CPU for each
//! packet, beside programs that only send it back. What is measured is in
//! `world.rs`, the output in `report.rs`; this file takes the time.
//!
//! The time is the kernel's own: with statistics on, it reads a clock before
//! and after each run of a program, and sums up. That costs as much for a
//! program that does nothing, so only differences to that say something.
//!
//! Packets come by a test run that repeats. It would feed a program with what
//! it has written itself, so another one comes first, in the same run, which
//! writes the next frame and jumps (`feed.rs`). Caches are as warm as in a
//! batch of a driver's, and no device or protocol stack is between.
#![expect(clippy::unwrap_used, reason = "what it shares with the tests ends them, and so it")]

mod feed;
#[path = "../../../ebpf/frames.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod frames;
#[path = "../../../ebpf/plane.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod plane;
mod report;
mod world;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use clap::Parser;
use llb_common::reason::Reason;
use rustix::thread::{CpuSet, sched_setaffinity};

use feed::Feeder;
use plane::{Family, Hook, Plane};
use report::Row;
use world::Mode;

/// Numbers of flows, whose packets take turns.
const FLOWS: [u32; 3] = [1, 10_000, world::FLOWS];

/// Measures the eBPF programs without any traffic. Needs root.
#[derive(Parser)]
struct Arguments {
    /// Where the result goes
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// Times that each kind of packets has its turn
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Packets of each kind in a round
    #[arg(long, default_value_t = 40_000)]
    packets: u32,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "it needs root, to load eBPF programs");
    let _statistics = enable_stats(Stats::RunTime).context("no statistics of eBPF programs")?;
    // Asked before it stays on one of them.
    let cores = std::thread::available_parallelism()?.get();
    let mut cpus = CpuSet::new();
    cpus.set(0);
    sched_setaffinity(None, &cpus).context("cannot stay on one CPU")?;

    let mut worlds = Vec::new();
    for hook in [Hook::Xdp, Hook::Tc] {
        println!("{hook:?}: making flows");
        let planes = [Family::V4, Family::V6].map(|family| world::make(hook, family));
        worlds.push((Feeder::new(hook)?, planes));
    }
    let mut rows: Vec<Row> = worlds.iter().flat_map(|(_, planes)| planes).flat_map(rows_of).collect();
    for round in 0..arguments.rounds {
        println!("round {} of {}", round + 1, arguments.rounds);
        for row in &mut rows {
            let (feeder, planes) = &mut worlds[row.hook as usize];
            let plane = &planes[row.family as usize];
            let mode = row.mode.unwrap_or(Mode::Dsr);
            feeder.choose(row.mode.map(|_| plane.program()))?;
            let feed = feed::Feed::new(plane, mode, row.flows, round.wrapping_mul(arguments.packets));
            row.values.push(feeder.run(&feed, arguments.packets)?);
        }
    }
    for plane in worlds.iter().flat_map(|(_, planes)| planes) {
        let stopped = Reason::ALL.into_iter().any(|reason| plane.reason(reason) != 0);
        let begun = plane.entries::<24, 16>(llb_common::maps::PENDING_FLOWS.name).len();
        ensure!(!stopped && begun == 0, "not every packet was one of a known flow");
    }
    print!("{}", report::table(cores, &rows));
    report::write_json(&arguments.json, cores, &rows)?;
    println!("\n{}", arguments.json.display());
    Ok(())
}

/// What is compared with, then everything that is.
fn rows_of(plane: &Plane) -> Vec<Row> {
    let row = |mode, flows| Row { hook: plane.hook, family: plane.family, mode, flows, values: Vec::new() };
    let modes = Mode::ALL.into_iter().flat_map(|mode| FLOWS.map(|flows| row(Some(mode), flows)));
    std::iter::once(row(None, 1)).chain(modes).collect()
}

/// What `cargo xtask build-ebpf` has built.
fn object() -> Result<Vec<u8>> {
    read("ebpf/packet.o")
}

fn read(name: &str) -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(name);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}
