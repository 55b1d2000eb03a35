// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench packet`: CPU time of the packet programs for each packet, beside programs that only send
//! it back. `world.rs` has what is measured, `report.rs` the output. This file runs the rounds.
//!
//! The kernel measures the time: with statistics enabled, it reads a clock before and after each run of a
//! program, and sums up the differences. A program that does nothing pays for that too, so only the difference
//! to such a program is meaningful.
//!
//! The packets come from test runs that repeat. A repeated run would feed a program with its own output. So
//! another program runs first in each run, writes the next frame and jumps to it (`llb-ebpf/src/bench/`). The
//! caches are as warm as in a batch of a driver; no device and no protocol stack takes part.
mod feed;
#[path = "../../../ebpf/frames.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod frames;
mod object_file;
mod report;
mod world;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity};

use feed::{Feed, Feeder};
use report::Row;
use world::{Family, Hook, Mode, World};

/// Measures the eBPF programs without any traffic. Needs root.
#[derive(Parser)]
struct Arguments {
    /// Where the result goes
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// Times that each kind of packets has its turn
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// Packets of each kind in a round
    #[arg(long, default_value_t = 20_000)]
    packets: u32,
    /// Numbers of flows, whose packets take turns
    #[arg(long, value_delimiter = ',', default_value = "1,10000,1000000")]
    flows: Vec<u32>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "it needs root, to load eBPF programs");
    let _statistics = enable_stats(Stats::RunTime).context("no statistics of eBPF programs")?;
    // Read before this process binds itself to one core.
    let cores = std::thread::available_parallelism()?.get();
    let mut cpus = CpuSet::new();
    cpus.set(0);
    sched_setaffinity(None, &cpus).context("cannot stay on one CPU")?;

    let most = arguments.flows.iter().copied().max().context("no flows")?;
    let mut worlds = Vec::new();
    for hook in [Hook::Xdp, Hook::Tc] {
        println!("{hook:?}: making flows");
        let feeder = Feeder::new(hook, most)?;
        let world = |family, mode| World::new(hook, family, mode, most);
        let of_family =
            |family| Ok::<_, anyhow::Error>([world(family, Mode::Dsr)?, world(family, Mode::NatForward)?]);
        worlds.push((feeder, [of_family(Family::V4)?, of_family(Family::V6)?]));
    }
    let pairs = worlds.iter().flat_map(|(_, worlds)| worlds);
    let mut rows: Vec<Row> = pairs.flat_map(|[world, _]| rows_of(world, &arguments.flows)).collect();
    for round in 0..arguments.rounds {
        println!("round {} of {}", round + 1, arguments.rounds);
        for row in &mut rows {
            let (feeder, worlds) = &mut worlds[row.hook as usize];
            let of_mode = usize::from(!matches!(row.mode, None | Some(Mode::Dsr)));
            let world = &worlds[row.family as usize][of_mode];
            feeder.choose(row.mode.map(|_| world.program()).transpose()?)?;
            let first = round.wrapping_mul(arguments.packets);
            let feed = Feed::new(world, row.mode.unwrap_or(Mode::Dsr), row.flows, first);
            row.values.push(feeder.run(&feed, arguments.packets)?);
        }
    }
    for world in worlds.iter().flat_map(|(_, worlds)| worlds.as_flattened()) {
        ensure!(world.knew_all()?, "not every packet was one of a known flow");
    }
    print!("{}", report::table(cores, &rows));
    report::write_json(&arguments.json, cores, &rows)?;
    println!("\n{}", arguments.json.display());
    Ok(())
}

/// The program to compare with, then all that are compared.
fn rows_of(world: &World, flows: &[u32]) -> Vec<Row> {
    let row = |mode, flows| Row { hook: world.hook, family: world.family, mode, flows, values: Vec::new() };
    let modes = Mode::ALL.into_iter().flat_map(|mode| flows.iter().map(move |flows| row(Some(mode), *flows)));
    std::iter::once(row(None, 1)).chain(modes).collect()
}
