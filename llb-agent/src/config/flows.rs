// SPDX-License-Identifier: Apache-2.0
//! The flags of `llb-agent flows`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::admin::{AdminTarget, parse_target};
use super::defaults::DEFAULT_BPF_DIR;
use crate::model::FlowEnd;

/// Rows that one list may have: they are in memory until they are printed, on a machine that forwards.
const MOST_ROWS: i64 = 100_000;

/// Which flows to list, and how.
#[derive(Clone, Debug, Args)]
pub struct FlowsArgs {
    /// Only flows of this Service; needs a running agent, which knows the Service's VIPs
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<String>,
    /// Only flows to this VIP
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub vip: Option<FlowEnd>,
    /// Only flows of this client
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub client: Option<FlowEnd>,
    /// Only flows that go to this backend
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub backend: Option<FlowEnd>,
    /// The form of the output
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    pub output: FlowsOutput,
    /// Show at most this many rows, of a summary in each of its tables; up to 100,000
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=MOST_ROWS))]
    pub limit: u32,
    /// Count instead: clients with the most flows, flows by backend, by Service
    #[arg(long)]
    pub summary: bool,
    /// Folder where the maps are pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
    pub bpf_dir: PathBuf,
    /// The agent's admin endpoint [default: /run/llb/admin.sock; if no agent answers there, 127.0.0.1:9660]
    #[arg(long, value_name = "ADDRESS:PORT|PATH", value_parser = parse_target)]
    pub admin: Option<AdminTarget>,
}

/// The form of a list of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FlowsOutput {
    /// Aligned columns
    #[default]
    Table,
    /// JSON
    Json,
}
