//! `cargo xtask bench relay`: llb in user space beside HAProxy and nginx
//! stream. One lab, one run, all balancers up all the time, rounds interleaved
//! (each probe goes round all balancers before the next one starts). Who is
//! compared is in `stage.rs`, what the numbers look like in `report.rs`.

mod report;
mod stage;

use anyhow::{Context, Result};

use crate::probe::Probe;
use crate::{Span, write_results};
use report::Report;
use stage::Stage;

/// One second is short for programs that adapt.
const SECONDS: u32 = 2;

pub(crate) fn run(span: &Span) -> Result<()> {
    let seconds = span.seconds.unwrap_or(SECONDS);
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
