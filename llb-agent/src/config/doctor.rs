// SPDX-License-Identifier: Apache-2.0
//! The flags of `llb-agent doctor` besides those of the agent.

use std::net::IpAddr;

use clap::{Args, ValueEnum};

/// What to look at, and how to show it.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The form of the output
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    pub output: DoctorOutput,
    /// Announce this free address on its segment, and see whether a neighbour believes it
    ///
    /// This finds switches and hypervisors that drop frames from addresses that they do not know. The address must be in a
    /// subnet of a link device. It is not announced if another host has it. The neighbours remember it for a while.
    #[arg(long, value_name = "ADDRESS")]
    pub try_address: Option<IpAddr>,
}

/// The form of the findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DoctorOutput {
    /// A paragraph for each finding, in 80 columns
    #[default]
    Table,
    /// JSON
    Json,
}
