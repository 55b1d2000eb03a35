// SPDX-License-Identifier: Apache-2.0
//! The command line: serve, or a subcommand.

use std::ffi::OsString;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches as _, Parser, Subcommand};

use super::admin::{AdminTarget, parse_target};
use super::arguments::ServeArgs;
use super::command_line::{CommandLine, Configured, DEFAULT_FILE};
use super::defaults::{DEFAULT_BPF_DIR, DEFAULT_STATE_DIR};
use super::doctor::DoctorArgs;
use super::duration::parse_duration;
use super::environment::Environment;
use super::flows::FlowsArgs;
use super::list::{ChangesArgs, ListArgs};
use super::order::{Addressee, DrainArgs, MoveArgs, Order};
use super::rbac::{Grant, RbacArgs};
use super::validate::ConfigError;
use super::version::LONG_VERSION;

/// The little load balancer: gives VIPs to Services of type LoadBalancer, adds them to a link device, and forwards their
/// traffic.
#[derive(Debug, Parser)]
#[command(
    name = "llb-agent",
    version,
    long_version = LONG_VERSION,
    args_conflicts_with_subcommands = true,
    after_help = "TIME is a whole number with a unit: ms, s, m or h, as in 30s. A number without a unit is seconds. The \
                  longest time is 168h.\n\nEnvironment: KUBECONFIG names the kubeconfig; RUST_LOG filters log lines, as \
                  in RUST_LOG=debug. What is given in several places counts in this order: flag, environment, \
                  configuration file."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

impl Cli {
    /// What the command line of this process says. For a wrong flag, --help and --version, clap ends the process.
    ///
    /// # Errors
    /// The configuration makes no sense; the error names the flag, or the line of the file.
    pub fn read() -> Result<Invocation, ConfigError> {
        let matches = Self::command().get_matches();
        Self::invocation(&matches, Path::new(DEFAULT_FILE), Environment::read())
    }

    /// What these arguments say, whatever the environment is. No configuration file is read unless they name it. For
    /// tests.
    ///
    /// # Errors
    /// As for [`Cli::read`], but wrong flags too.
    pub fn of(arguments: &[&str]) -> Result<Invocation, ConfigError> {
        let matches = Self::command().try_get_matches_from(arguments);
        let matches = matches.map_err(|error| ConfigError::Flags { text: error.to_string() })?;
        let no_file = Path::new("");
        Self::invocation(&matches, no_file, Environment::default())
    }

    fn invocation(
        matches: &ArgMatches,
        default_file: &Path,
        environment: Environment,
    ) -> Result<Invocation, ConfigError> {
        let cli = Self::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
        let given = matches.subcommand().map_or(matches, |(_, matches)| matches);
        let configured = || CommandLine::of(given, default_file, environment).configure().map(Box::new);
        match cli.command {
            None => Ok(Invocation::Serve(configured()?)),
            Some(Command::Config { .. }) => Ok(Invocation::ShowConfig(configured()?)),
            Some(Command::Doctor { args, .. }) => Ok(Invocation::Doctor(configured()?, args)),
            Some(Command::CheckConfig { file }) => Ok(Invocation::CheckConfig { file }),
            Some(Command::Detach { bpf_dir, state_dir }) => Ok(Invocation::Detach { bpf_dir, state_dir }),
            Some(Command::Share { state_dir, announce, told: _ }) => {
                Ok(Invocation::Share { state_dir, announce })
            }
            Some(Command::Alive { admin }) => {
                Ok(Invocation::Alive { admin: admin.unwrap_or_else(AdminTarget::usual) })
            }
            Some(Command::Members { admin }) => {
                Ok(Invocation::Members { admin: admin.unwrap_or_else(AdminTarget::usual) })
            }
            Some(Command::Drain(args)) => {
                Ok(Invocation::Order { order: (&args).into(), state_dir: args.to.state_dir })
            }
            Some(Command::Undrain(to)) => {
                Ok(Invocation::Order { order: Order::Undrain, state_dir: to.state_dir })
            }
            Some(Command::Move(args)) => {
                Ok(Invocation::Order { state_dir: args.to.state_dir.clone(), order: args.into() })
            }
            Some(Command::Rbac(args)) => Ok(Invocation::Rbac(args.into())),
            Some(Command::Supervise { arguments }) => Ok(Invocation::Supervise { arguments }),
            Some(Command::EndAgents { limit }) => Ok(Invocation::EndAgents { limit }),
            Some(Command::Explain { service, admin }) => {
                Ok(Invocation::Explain { admin: admin.unwrap_or_else(AdminTarget::usual), service })
            }
            Some(Command::List(args)) => Ok(Invocation::List(args)),
            Some(Command::Changes(args)) => Ok(Invocation::Changes(args)),
            Some(Command::Flows(args)) => Ok(Invocation::Flows(args)),
            Some(Command::Trace { client, sample, count, bpf_dir }) => {
                Ok(Invocation::Trace { client, one_in: sample.next_power_of_two(), count, bpf_dir })
            }
        }
    }

    /// Ends the process as clap does for a wrong flag: with plain text, wherever standard error goes.
    pub fn refuse(why: &impl Display) -> ! {
        Self::command().error(ErrorKind::ValueValidation, why).exit()
    }
}

/// What the process is to do.
#[derive(Debug)]
pub enum Invocation {
    /// Serve.
    Serve(Box<Configured>),
    /// Show the configuration.
    ShowConfig(Box<Configured>),
    /// Look for what keeps llb from serving with this configuration.
    Doctor(Box<Configured>, DoctorArgs),
    /// Check a configuration file.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Show what is served for a Service, and why.
    Explain {
        /// The agent's admin endpoint.
        admin: AdminTarget,
        /// NAMESPACE/NAME.
        service: String,
    },
    /// List Services, or the backends of one.
    List(ListArgs),
    /// Show what has changed lately.
    Changes(ChangesArgs),
    /// List flows, or count them.
    Flows(Box<FlowsArgs>),
    /// Show what the packet programs do with packets of one client.
    Trace {
        /// The client's address.
        client: IpAddr,
        /// One packet out of this many is shown: a power of two.
        one_in: u32,
        /// The trace ends after this many packets; `None`: at Ctrl-C.
        count: Option<u64>,
        /// Where the maps are pinned.
        bpf_dir: PathBuf,
    },
    /// Put the VIPs of the shares that keepalived has given to this box on their links, and take the others off.
    Share {
        /// The agent's state folder.
        state_dir: PathBuf,
        /// Announce the VIPs of this share again.
        announce: Option<u8>,
    },
    /// Find out whether the agent is alive.
    Alive {
        /// Its admin endpoint.
        admin: AdminTarget,
    },
    /// Show the shares of the group.
    Members {
        /// The agent's admin endpoint.
        admin: AdminTarget,
    },
    /// Tell a box of a group which shares it is to have.
    Order {
        /// The agent's state folder.
        state_dir: PathBuf,
        /// What it is told.
        order: Order,
    },
    /// Print the objects that grant llb its rights in a cluster.
    Rbac(Grant),
    /// Run an agent for a service manager.
    Supervise {
        /// The agent's command line.
        arguments: Vec<OsString>,
    },
    /// End the agents of a service that is stopped.
    EndAgents {
        /// Those that have not ended by then are killed.
        limit: Duration,
    },
    /// Remove everything that llb left in the kernel.
    Detach {
        /// Where programs and maps are pinned.
        bpf_dir: PathBuf,
        /// The list of added addresses is here, if the kernel does not mark them.
        state_dir: PathBuf,
    },
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file; mistakes are told with their lines
    CheckConfig {
        /// The file
        #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Show the configuration that counts, as TOML, and where each value comes from
    ///
    /// With the flags that llb-agent gets, it shows what llb-agent would use.
    Config {
        #[command(flatten)]
        serve: Box<ServeArgs>,
    },
    /// Before you start: look for what keeps llb from serving here, or makes it slower
    ///
    /// It looks at rights, kernel, links, addresses, cluster and Nodes, for the configuration that llb-agent would use with
    /// these flags. It needs no running agent and changes nothing. The exit status is 1 if something is an error.
    Doctor {
        #[command(flatten)]
        args: DoctorArgs,
        #[command(flatten)]
        serve: Box<ServeArgs>,
    },
    /// Show what is served for a Service, and why: VIPs, plane, mode, and backends with their state
    Explain {
        /// The Service
        #[arg(value_name = "NAMESPACE/NAME")]
        service: String,
        /// The agent's admin endpoint [default: /run/llb/admin.sock; if no agent answers there, 127.0.0.1:9660]
        #[arg(long, value_name = "ADDRESS:PORT|PATH", value_parser = parse_target)]
        admin: Option<AdminTarget>,
    },
    /// List all Services with their VIPs, planes, and backends that are up; or the backends of one Service
    List(ListArgs),
    /// Show what has changed lately: VIPs, planes, backends, problems
    Changes(ChangesArgs),
    /// List the flows of the packet plane: who talks to which VIP, and which backend answers
    ///
    /// It reads the pinned maps, so it works also after the agent has ended. Names of Services come from the running
    /// agent. How old a flow is, and its packets and bytes, are not known: the maps do not keep them. In mode dsr the
    /// packets of backends are not seen, so idle time and state are those of the client's side. Flows that are closed are
    /// listed until they are removed. Reading is slow on purpose, at most a million flows in a second, so that forwarding
    /// does not notice it.
    Flows(Box<FlowsArgs>),
    /// Show what the packet programs decide about packets of one client
    ///
    /// tcpdump does not see packets that XDP programs handle. Only one trace can run at a time.
    Trace {
        /// The client
        #[arg(long, value_name = "ADDRESS")]
        client: IpAddr,
        /// Show one packet out of this many, rounded up to a power of two
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
        sample: u32,
        /// End after this many packets [default: at Ctrl-C]
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Folder where the maps are pinned
        #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
        bpf_dir: PathBuf,
    },
    /// Show which VIPs of its group this box has, and which boxes are to have them
    Members {
        /// The agent's admin endpoint [default: /run/llb/admin.sock; if no agent answers there, 127.0.0.1:9660]
        #[arg(long, value_name = "ADDRESS:PORT|PATH", value_parser = parse_target)]
        admin: Option<AdminTarget>,
    },
    /// Give the shares of this box to the other boxes of its group, before it is serviced or restarted
    ///
    /// It stays so, also if the agent or the machine is started again, until `llb-agent undrain`. It counts when an agent
    /// runs.
    Drain(DrainArgs),
    /// End what `llb-agent drain` has begun: this box gets its shares again, one after the other
    Undrain(Addressee),
    /// Let another box than the first in line have a share; run it on all boxes of the group
    ///
    /// It stays so until the share is moved again. If that box dies, the next one in line has the share, as always.
    Move(MoveArgs),
    /// For keepalived: put the VIPs that it has given to this box on their links, and take the others off
    ///
    /// It needs no running agent.
    Share {
        /// The agent's --state-dir
        #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
        state_dir: PathBuf,
        /// Announce the VIPs of this share again: another box has had it at the same time
        #[arg(long, value_name = "N")]
        announce: Option<u8>,
        /// What keepalived tells about the change; llb looks for itself
        #[arg(hide = true)]
        told: Vec<String>,
    },
    /// For keepalived: whether the agent is alive, by the exit status
    Alive {
        /// The agent's admin endpoint [default: /run/llb/admin.sock; if no agent answers there, 127.0.0.1:9660]
        #[arg(long, value_name = "ADDRESS:PORT|PATH", value_parser = parse_target)]
        admin: Option<AdminTarget>,
    },
    /// Print all rights that llb needs in a cluster, for `kubectl apply -f -`
    Rbac(RbacArgs),
    /// Run the agent as systemd's main process, so that a restart of the service loses no connection
    ///
    /// The agent gets all arguments that follow. SIGTERM ends only this process; the agent that is started next takes over
    /// from the one that is left.
    Supervise {
        /// The agent's flags
        #[arg(value_name = "FLAGS", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// End all agents of the systemd service that this process belongs to, if it is being stopped and not restarted
    EndAgents {
        /// Agents that have not ended by then are killed; must be longer than --drain-timeout
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
        limit: Duration,
    },
    /// Remove all programs and maps that llb left in the kernel, and its VIPs from the links that had programs
    Detach {
        /// Folder where programs and maps are pinned
        #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
        bpf_dir: PathBuf,
        /// The agent's --state-dir
        #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
        state_dir: PathBuf,
    },
}
