// SPDX-License-Identifier: Apache-2.0
//! Requests and open connections during a step. It does not know what the step is.

use std::time::Duration;

use anyhow::{Result, ensure};
use llb_tests::Steady;
use llb_tests::client::Load;
use llb_tests::steady::connect_all;

use super::debian::{Debian, LIMIT};

/// Between two requests: more would leave an emulated machine no time for its own work.
const PAUSE: Duration = Duration::from_millis(50);

/// Open connections during a step, and the messages that each of them has to carry after it.
const STREAMS: usize = 10;
const MESSAGES: usize = 20;

/// Requests that must be answered after a step.
const REQUESTS: usize = 20;

/// Requests and open connections while `step` runs. All requests are answered, and no connection breaks.
pub(super) fn under_load(debian: &mut Debian, step: impl FnOnce(&mut Debian) -> Result<()>) -> Result<()> {
    let streams = Steady::start(connect_all(debian.client(), debian.echo(), STREAMS)?);
    let load = Load::paced(debian.client(), debian.web(0), PAUSE);
    streams.wait_for_rounds(MESSAGES, LIMIT)?;
    let done = step(debian)
        .and_then(|()| streams.wait_for_rounds(MESSAGES, LIMIT))
        .and_then(|()| load.wait_for_more(REQUESTS, LIMIT));
    let rounds = streams.rounds();
    let (tally, broken) = (load.stop(), streams.stop());
    // First, because a step that fails often breaks the load.
    done?;
    let (tally, broken) = (tally?, broken?);
    println!(
        "  {} requests, {} failed; {STREAMS} connections with {rounds} messages each, {} broken",
        tally.total(),
        tally.failures.len(),
        broken.len()
    );
    ensure!(tally.failures.is_empty(), "{:?}\n{}", tally.failures, debian.journal());
    ensure!(broken.is_empty(), "{broken:?}\n{}", debian.journal());
    Ok(())
}
