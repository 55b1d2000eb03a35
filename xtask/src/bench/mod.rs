// SPDX-License-Identifier: Apache-2.0
//! The benches. Each builds what it needs and starts a program of llb-tests, which does the measuring.

mod beside;
mod control;
mod failover;
mod packet;

use anyhow::Result;
use clap::Subcommand;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Idle connections, start with many frontends, time until an added Service forwards; root; about 3 minutes, and the builds
    Control(control::Arguments),
    /// How long VIPs of a group do not answer when a box is cut off, drained and comes back; root; about 8 minutes, and the builds
    Failover(failover::Arguments),
    /// Nanoseconds that the eBPF programs take for a packet; root; about 12 minutes, and the builds
    Packet(packet::Arguments),
    /// The relay beside HAProxy and nginx stream; root; about 4 minutes, and the build
    Relay(beside::Arguments),
    /// All ways of forwarding in one lab, llb's and others', rate and CPU time; root; about 11 minutes, and the build
    E2e(beside::Arguments),
    /// What a flood of new connections costs the open ones; root; about 16 minutes, and the build
    Flood(beside::Arguments),
    /// UDP of one question and one answer, beside nginx stream and nftables; root; about 6 minutes, and the build
    Dns(beside::Arguments),
}

/// Builds the optimized agent, then measures.
///
/// # Errors
/// Something can't be built or measured, or misses its target.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Control(arguments) => control::run(arguments),
        What::Failover(arguments) => failover::run(arguments),
        What::Packet(arguments) => packet::run(arguments),
        What::Relay(arguments) => beside::run("relay", arguments),
        What::E2e(arguments) => beside::run("e2e", arguments),
        What::Flood(arguments) => beside::run("flood", arguments),
        What::Dns(arguments) => beside::run("dns", arguments),
    }
}
