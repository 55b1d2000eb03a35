// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench e2e`: every way of forwarding in one lab and one run. All of them are up all the time,
//! and each probe measures all of them before the next probe starts. `contender.rs` lists them, `stage.rs` sets
//! them up, `report.rs` and `plot.rs` show the results.

pub(crate) mod contender;
mod plot;
mod report;
pub(crate) mod stage;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::probe::Probe;
use crate::span::{Span, write_results};
use contender::Contender;
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
}

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
        let report = measure(&arguments.span, has_offload)?;
        println!("{}", report.text());
        let (json, svg) =
            if has_offload { ("e2e-offload.json", "e2e-offload.svg") } else { ("e2e.json", "e2e.svg") };
        write_results(&arguments.span.out, &[(json, report.json()), (svg, plot::svg(&report))])?;
    }
    Ok(())
}

fn measure(span: &Span, has_offload: bool) -> Result<Report> {
    let seconds = span.seconds.unwrap_or(SECONDS);
    let mut contenders = Contender::all(has_offload);
    let stage = Stage::build(&contenders, has_offload)?;
    let mut report = Report::new(contenders.clone(), has_offload, span.rounds, seconds);
    for round in 1..=span.rounds {
        for probe in Probe::ALL {
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
                report.add(*contender, &values);
            }
        }
        // So no contender is always the first one.
        contenders.rotate_left(ROTATED);
    }
    stage.check_planes().context("not all was measured by the plane that it is called after")?;
    Ok(report)
}
