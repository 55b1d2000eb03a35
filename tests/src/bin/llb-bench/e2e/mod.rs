// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench e2e`: every way of forwarding in one lab and one run. All of them are up all the time,
//! and each probe measures all of them before the next probe starts. `contender.rs` lists them, `stage.rs` sets
//! them up, `report.rs` and `plot.rs` show the results. Then HTTP is measured again while the programs of all others
//! are stopped.

pub(crate) mod contender;
mod plot;
mod report;
pub(crate) mod stage;
mod stopped;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::cpu::busy_percent;
use crate::probe::Probe;
use crate::span::{Span, write_results};
use contender::{BASELINE, Contender};
use report::Report;
use stage::Stage;

/// Short, because there are many to measure.
const SECONDS: u32 = 1;

/// How far the order of contenders moves on after each round.
const ROTATED: usize = 3;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    span: Span,
    /// Whether links leave checksums and segments to the other end, as a network card does for its host: off, which
    /// XDP in the driver of a veth pair needs; on, without llb's rows of XDP; or one after the other
    #[arg(long, value_enum, default_value_t)]
    offload: Offload,
    /// Measure only these, beside plain routing; separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = Contender::by_name)]
    only: Vec<Contender>,
    /// Measure only what has a name that contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    probe: String,
}

/// What is measured also while the programs of all other contenders are stopped.
const ALONE: [Probe; 2] = [Probe::KeepAlive, Probe::NewConnections];

/// How long the machine is watched before the run, to see what else it does.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Offload {
    #[default]
    Off,
    On,
    Both,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let settings: &[bool] = match arguments.offload {
        Offload::Off => &[false],
        Offload::On => &[true],
        Offload::Both => &[false, true],
    };
    for &has_offload in settings {
        let report = measure(arguments, has_offload)?;
        println!("{}", report.text());
        let (json, svg) =
            if has_offload { ("e2e-offload.json", "e2e-offload.svg") } else { ("e2e.json", "e2e.svg") };
        write_results(&arguments.span.out, &[(json, report.json()), (svg, plot::svg(&report))])?;
    }
    Ok(())
}

fn measure(arguments: &Arguments, has_offload: bool) -> Result<Report> {
    let span = &arguments.span;
    let seconds = span.seconds.unwrap_or(SECONDS);
    let is_wanted = |contender: &Contender| {
        arguments.only.is_empty() || *contender == BASELINE || arguments.only.contains(contender)
    };
    let mut contenders: Vec<Contender> = Contender::all(has_offload).into_iter().filter(is_wanted).collect();
    let mut stage = Stage::build(&contenders, has_offload)?;
    let mut report = Report::new(contenders.clone(), has_offload, span.rounds, seconds);
    report.set_busy_before(busy_percent(QUIET)?);
    let is_chosen = |probe: &Probe| probe.title().contains(&arguments.probe);
    for round in 1..=span.rounds {
        for probe in Probe::ALL.into_iter().filter(is_chosen) {
            eprintln!("round {round} of {}: {}", span.rounds, probe.title());
            for contender in &contenders {
                if probe.is_udp() && !contender.has_udp() {
                    continue;
                }
                let values = probe
                    .run(stage.client(), stage.address(*contender), seconds, stage.sink())
                    .with_context(|| {
                        format!("{} by {}\n{}", probe.title(), contender.name(), stage.logs())
                    })?;
                report.together.add(*contender, &values);
            }
        }
        for probe in ALONE.into_iter().filter(is_chosen) {
            eprintln!("round {round} of {}: {}, each contender alone", span.rounds, probe.title());
            for contender in &contenders {
                let _stopped = stage.stop_others(*contender)?;
                let values = probe
                    .run(stage.client(), stage.address(*contender), seconds, stage.sink())
                    .with_context(|| format!("{} by {} alone", probe.title(), contender.name()))?;
                report.alone.add(*contender, &values);
            }
        }
        // So no contender is always the first one.
        let rotated = ROTATED % contenders.len();
        contenders.rotate_left(rotated);
    }
    stage.check_planes().context("not all was measured by the plane that it is called after")?;
    Ok(report)
}
