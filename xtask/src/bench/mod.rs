// SPDX-License-Identifier: Apache-2.0
//! Measurements: one file for each. What is measured, and how, is in the
//! programs of llb-tests that they start.

mod beside;
mod control;
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
    /// Idle connections, start with many frontends, time until an added Service forwards; root
    Control(control::Arguments),
    /// Nanoseconds that the eBPF programs take for a packet; root; about 2 minutes
    Packet(packet::Arguments),
    /// The relay beside HAProxy and nginx stream; root; about 4 minutes, and the build
    Relay(beside::Arguments),
    /// Every way of forwarding in a one-arm lab, llb's and others'; root; about 9 minutes, and the build
    E2e(beside::Arguments),
    /// What a flood of openings costs connections that are open; root; about 10 minutes, and the build
    Flood(beside::Arguments),
}

/// Builds what is measured with optimization, then measures.
///
/// # Errors
/// Something can't be built, could not be measured, or misses its target.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Control(arguments) => control::run(arguments),
        What::Packet(arguments) => packet::run(arguments),
        What::Relay(arguments) => beside::run("relay", arguments),
        What::E2e(arguments) => beside::run("e2e", arguments),
        What::Flood(arguments) => beside::run("flood", arguments),
    }
}
