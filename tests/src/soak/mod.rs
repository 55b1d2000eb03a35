// SPDX-License-Identifier: Apache-2.0
//! Many connections of every kind through a VIP: random sizes, half-closes in each order, resets from each side,
//! stalls, slow readers. Both ends follow the same script, made from a seed and the connection's number, and both
//! say what they saw. Each connection must end with all bytes and a clean end, or with a reset that the script
//! asks for. The caller decides what it measures of the balancer meanwhile.
//!
//! A green soak does not prove that nothing is lost on real networks: there is no loss, no reordering and no delay,
//! and clients and backends run in one process on the machine of the balancer.

mod backend;
mod client;
mod script;
mod seen;
mod transfer;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use backend::Backends;
pub use script::{Ending, Script};
pub use seen::Seen;

use crate::Host;
use crate::wait::wait_until;

/// Time from the end of the last client to the end of the last backend.
const LINGER: Duration = Duration::from_secs(30);

/// Outcome of a soak: numbers of connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Both ends got all bytes and a clean end.
    pub complete: usize,
    /// One end reset it as the script asked, and both ends saw the reset.
    pub reset: usize,
    /// The client reset it before it reached a backend.
    pub unborn: usize,
}

/// Runs the connections `0..count` from `client` to `vips` in turn, behind which are `backends`, and judges each.
///
/// # Errors
/// Some went wrong; the error names the first few by number, with what both ends saw.
pub fn run(client: &Host, vips: &[SocketAddr], backends: &Backends, seed: u64, count: u64) -> Result<Tally> {
    let clients = client::run(client, vips, seed, count).context("the clients")?;
    wait_until(LINGER, "the backends to see the end of every connection", || {
        let open = backends.open();
        ensure!(open == 0, "{open} are open");
        Ok(Some(()))
    })?;
    let backends = backends.book();
    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    for number in 0..count {
        let script = Script::of(seed, number);
        let (here, there) = (clients.get(&number), backends.get(&number));
        match (script.ending, here, there) {
            (Ending::Clean, Some(Seen::Complete), Some(Seen::Complete)) => tally.complete += 1,
            (
                Ending::ClientResets { .. } | Ending::BackendResets { .. },
                Some(Seen::Reset),
                Some(Seen::Reset),
            ) => {
                tally.reset += 1;
            }
            (Ending::ClientResets { .. }, Some(Seen::Reset), None) => tally.unborn += 1,
            _ => wrong.push(format!("{number}: client {here:?}, backend {there:?}, {script:?}")),
        }
    }
    let first: Vec<&str> = wrong.iter().take(5).map(String::as_str).collect();
    ensure!(wrong.is_empty(), "seed {seed}: {} of {count} went wrong:\n{}", wrong.len(), first.join("\n"));
    Ok(tally)
}
