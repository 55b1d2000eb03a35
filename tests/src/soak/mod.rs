// SPDX-License-Identifier: Apache-2.0
//! Many connections of every kind through a VIP: random sizes, half-closes in
//! each order, resets from each side, stalls, slow readers. Both ends follow
//! the same script, made from a seed and the connection's number, and both say
//! what they saw: every byte and a clean end, or a reset. Nothing in between
//! is right. What is measured of the balancer meanwhile is the caller's business.

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

/// From the last client's end to the last backend's.
const LINGER: Duration = Duration::from_secs(30);

/// How a soak went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Both ends had all bytes and a clean end.
    pub complete: usize,
    /// Cut on purpose, and both ends saw a reset.
    pub reset: usize,
    /// Cut by the client before a backend had it.
    pub unborn: usize,
}

/// Runs connections `0..count` from `client` to `vips` in turn, whose backends
/// are `backends`, and judges each.
///
/// # Errors
/// The first few connections that went wrong, by number, with both ends' words.
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
