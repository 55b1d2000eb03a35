// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench relay`: llb in user space beside HAProxy and nginx stream, in one lab and one run. All
//! balancers are up all the time, and each probe measures all of them before the next probe starts. `stage.rs`
//! sets them up, `report.rs` shows the results. `ways.rs` and `load.rs` compare llb's own ways to move bytes.

mod load;
mod report;
mod stage;
mod ways;

use anyhow::{Context, Result};

use crate::probe::Probe;
use crate::span::{Span, write_results};
use report::Report;
use stage::Stage;

/// One second would be too short for programs that adapt.
const SECONDS: u32 = 2;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    span: Span,
    /// Compare llb's own ways to move bytes instead: copy, splice, sockmap
    #[arg(long)]
    ways: bool,
    /// With --ways: only what is measured under a name that contains this
    #[arg(long, requires = "ways")]
    probe: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let span = &arguments.span;
    let seconds = span.seconds.unwrap_or(SECONDS);
    if arguments.ways {
        return ways::run(span.rounds, seconds, arguments.probe.as_deref());
    }
    let stage = Stage::build()?;
    let mut report = Report::new(span.rounds, seconds);
    for round in 1..=span.rounds {
        for probe in Probe::THERE_AND_BACK {
            eprintln!("round {round} of {}: {}", span.rounds, probe.title());
            for (balancer, address) in stage.balancers() {
                if probe.is_udp() && !balancer.has_udp() {
                    continue;
                }
                let values = probe
                    .run(stage.client(), address, seconds, stage.sink())
                    .with_context(|| format!("{} by {}\n{}", probe.title(), balancer.name(), stage.logs()))?;
                report.add(balancer, &values);
            }
        }
    }
    drop(stage);
    println!("{}", report.table());
    write_results(&span.out, &[("relay.json", report.json()), ("relay.svg", report.svg())])
}
