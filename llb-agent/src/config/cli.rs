// SPDX-License-Identifier: Apache-2.0
//! The command line: serve, or a subcommand.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::arguments::ServeArgs;
use super::defaults::{DEFAULT_ADMIN, DEFAULT_BPF_DIR, DEFAULT_STATE_DIR};
use super::settings::Config;
use super::validate::ConfigError;

/// The little load balancer: gives Services of type LoadBalancer their VIPs,
/// puts them on a link device, and forwards their traffic.
#[derive(Debug, Parser)]
#[command(
    name = "llb-agent",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

impl Cli {
    /// Checks what clap can't.
    ///
    /// # Errors
    /// Names the flag.
    pub fn invocation(self) -> Result<Invocation, ConfigError> {
        match self.command {
            Some(command) => Ok(command.into()),
            None => Ok(Invocation::Serve(Box::new(self.serve.try_into()?))),
        }
    }
}

/// What the agent is to do.
#[derive(Debug)]
pub enum Invocation {
    /// Serve.
    Serve(Box<Config>),
    /// Say what is served for a Service, and why so.
    Explain {
        /// The agent's admin endpoint.
        admin: SocketAddr,
        /// NAMESPACE/NAME.
        service: String,
    },
    /// Show what the packet programs do with packets of one client.
    Trace {
        /// Its address.
        client: IpAddr,
        /// One packet in so many is shown: a power of two.
        one_in: u32,
        /// The end after so many.
        count: Option<u64>,
        /// Where the maps are pinned.
        bpf_dir: PathBuf,
    },
    /// Remove what llb left in the kernel.
    Detach {
        /// Where it is pinned.
        bpf_dir: PathBuf,
        /// Where addresses are noted that the kernel does not mark.
        state_dir: PathBuf,
    },
}

/// What else than serving the agent can do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is served for a Service: VIPs, plane, mode, backends with their state, and why
    Explain {
        /// The Service
        #[arg(value_name = "NAMESPACE/NAME")]
        service: String,
        /// Where the agent's admin endpoint is
        #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_ADMIN)]
        admin: SocketAddr,
    },
    /// Show what the packet programs decide about packets of one client, which tcpdump can't see. One trace at a time
    Trace {
        /// The client
        #[arg(long, value_name = "ADDRESS")]
        client: IpAddr,
        /// Show one packet in so many, rounded up to a power of two
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
        sample: u32,
        /// End after so many packets [default: at Ctrl-C]
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Where the maps are pinned
        #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
        bpf_dir: PathBuf,
    },
    /// Remove every program and map that llb left in the kernel, and its VIPs from the links that had programs
    Detach {
        /// Where they are pinned
        #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
        bpf_dir: PathBuf,
        /// Where llb keeps what must outlive it
        #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
        state_dir: PathBuf,
    },
}

impl From<Command> for Invocation {
    fn from(command: Command) -> Self {
        match command {
            Command::Detach { bpf_dir, state_dir } => Invocation::Detach { bpf_dir, state_dir },
            Command::Explain { service, admin } => Invocation::Explain { admin, service },
            Command::Trace { client, sample, count, bpf_dir } => {
                Invocation::Trace { client, one_in: sample.next_power_of_two(), count, bpf_dir }
            }
        }
    }
}
