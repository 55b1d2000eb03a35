// SPDX-License-Identifier: Apache-2.0
//! The flags of `llb-agent list` and `llb-agent changes`.

use clap::{Args, ValueEnum};

use super::admin::{AdminTarget, parse_target};

/// What to list, and how.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Only this Service, with its backends
    #[arg(value_name = "NAMESPACE/NAME")]
    pub service: Option<String>,
    /// The form of the output
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    pub output: ListOutput,
    /// Only Services with a problem, or with a backend that is dead or unhealthy
    #[arg(long)]
    pub problems: bool,
    /// Go on, and print the list again each time that it has changed
    #[arg(short, long)]
    pub watch: bool,
    /// The agent's admin endpoint [default: /run/llb/admin.sock; if no agent answers there, 127.0.0.1:9660]
    #[arg(long, value_name = "ADDRESS:PORT|PATH", value_parser = parse_target)]
    pub admin: Option<AdminTarget>,
}

/// The form of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ListOutput {
    /// A line for each VIP and port; for one Service, a line for each backend
    #[default]
    Table,
    /// The same with more columns: link, publication, and why this plane serves
    Wide,
    /// What the HTTP API has
    Json,
    /// NAMESPACE/NAME only
    Name,
}

/// Which changes to show.
#[derive(Clone, Debug, Args)]
pub struct ChangesArgs {
    /// Only changes after this one, by its number
    #[arg(long, value_name = "NUMBER", default_value_t)]
    pub after: u64,
    /// Print what the HTTP API has
    #[arg(long)]
    pub json: bool,
    /// Go on, and print each change when it comes
    #[arg(short, long)]
    pub watch: bool,
    /// The agent's admin endpoint [default: /run/llb/admin.sock; if no agent answers there, 127.0.0.1:9660]
    #[arg(long, value_name = "ADDRESS:PORT|PATH", value_parser = parse_target)]
    pub admin: Option<AdminTarget>,
}
