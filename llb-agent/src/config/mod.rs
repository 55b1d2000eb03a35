// SPDX-License-Identifier: Apache-2.0
//! From the command line to a validated [`Config`]: the only place with clap,
//! with the environment, and with defaults.

mod command;
mod datapath;
mod permission;
mod relay;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use serde::Serialize;

use crate::model::{AddressRange, Mode, Pool, PoolError, Selector, SelectorError};
use command::Command;
pub use command::Invocation;
pub use datapath::{AtStop, Datapath, PacketConfig, PortRange, XdpMode};
pub use permission::OwnPorts;
use relay::default_workers;
pub use relay::{RelayConfig, SockmapConfig};

/// The value of `spec.loadBalancerClass` that is llb's.
pub const DEFAULT_CLASS: &str = "llb.dev/llb";

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

const DEFAULT_ADMIN: &str = "127.0.0.1:9660";
const DEFAULT_STATE_DIR: &str = "/var/lib/llb";
const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/llb";

/// The flags of the agent proper.
#[derive(Debug, Args)]
struct ServeArgs {
    /// Link device that gets the VIPs (repeatable: a VIP goes to the one whose subnet holds it, else to the first)
    #[arg(long = "linkdevice", value_name = "NAME", required = true)]
    links: Vec<String>,

    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, then the Pod's ServiceAccount]
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", conflicts_with = "manifests")]
    context: Option<String>,

    /// Read Kubernetes YAML or JSON from a folder or file instead of a cluster, and follow its changes
    #[arg(long, value_name = "DIR|FILE")]
    manifests: Option<PathBuf>,

    /// Serve only Services of this namespace (repeatable) [default: all]
    #[arg(long = "namespace", value_name = "NAME")]
    namespaces: Vec<String>,

    /// Addresses to give to Services that ask for none: [NAME=]RANGE[,RANGE...][+namespaces=A,B][+auto=false], where
    /// RANGE is a CIDR, FIRST-LAST or a single address; with auto=false only to Services with annotation
    /// llb.dev/pool: NAME (repeatable) [default: the link device's own primary address]
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,

    #[command(flatten)]
    permission: permission::PermissionArgs,

    /// Where traffic goes: node address + nodePort, or ready endpoints; auto takes nodes where the port has a nodePort
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = BackendMode::Auto)]
    backends: BackendMode,

    /// Use only Nodes with these labels: KEY, KEY=VALUE, KEY!=VALUE or !KEY, comma-separated;
    /// `worker` stands for node-role.kubernetes.io/worker [default: all but control-plane nodes]
    #[arg(long, value_name = "SELECTOR")]
    node_selector: Option<String>,

    /// The spec.loadBalancerClass that is ours
    #[arg(long, value_name = "CLASS", default_value = DEFAULT_CLASS)]
    class: String,

    /// Also serve Services without a loadBalancerClass
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    default_class: bool,

    /// What forwards: packet programs at XDP or TC, or the relay (its bytes moved by the kernel's sockmap, or in user
    /// space); auto takes for each Service the first of xdp, tc and userspace that can serve it
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, conflicts_with = "userspace")]
    datapath: Datapath,

    /// Whether the relay splices bulk data (splice(2)) or copies all
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    splice: bool,

    /// With --datapath sockmap: after how many small reads of the relay, without bulk data among them, the kernel goes on
    /// with a connection's bytes
    #[arg(long, value_name = "N", default_value = "32")]
    sockmap_after_reads: u32,

    /// With --datapath sockmap: connections whose bytes the kernel moves at one time; all others are relayed in user space
    /// [default: --max-connections]
    #[arg(long, value_name = "N")]
    sockmap_max_pairs: Option<NonZeroUsize>,

    /// The same as --datapath userspace: leave the kernel's packet path alone
    #[arg(long)]
    userspace: bool,

    #[command(flatten)]
    packet: datapath::PacketArgs,

    /// Where /healthz, /readyz, /metrics and /state are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,

    /// Where llb keeps what must outlive it
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,

    /// Where programs and maps are pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
    bpf_dir: PathBuf,

    /// How addresses that llb added are marked: by the kernel's address protocol (Linux 5.18), or in the state folder
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    address_tag: AddressTag,

    /// How long old connections may go on after their Service, port or the agent ends
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = parse_duration)]
    drain_timeout: Duration,

    /// What an agent does when another one has taken over and its connections have ended. A Pod would be started again
    /// after exit, and take over in turn: it waits for SIGTERM
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    after_handover: AfterHandover,

    /// How long a connection to one backend may take before the next is tried
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_limit)]
    connect_timeout: Duration,

    /// How long a TCP connection may be silent in both directions; a day, as kube-proxy's connection tracking allows
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_limit)]
    tcp_idle_timeout: Duration,

    /// How long sent data may go unacknowledged, also by a peer that pauses reading [default: the kernel's limit,
    /// net.ipv4.tcp_retries2, which spares the latter]
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    tcp_user_timeout: Option<Duration>,

    /// How long a UDP session may be silent
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_limit)]
    udp_idle_timeout: Duration,

    /// Connections at one time; one more is refused
    #[arg(long, value_name = "N", default_value = "16384")]
    max_connections: NonZeroUsize,

    /// UDP sessions at one time; the datagrams of one more are dropped
    #[arg(long, value_name = "N", default_value = "16384")]
    max_udp_sessions: NonZeroUsize,

    /// Threads that relay; each has a listening socket for each port of a Service [default: one for each core, at most 16]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
}

/// `--backends`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendMode {
    /// Node address + nodePort.
    Nodes,
    /// Ready endpoint addresses.
    Endpoints,
    /// Nodes for a port that has a nodePort where the cluster has Nodes, else endpoints.
    Auto,
}

/// How llb tells the addresses that it added from those of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AddressTag {
    /// By the kernel where it can, else in the state folder.
    #[default]
    Auto,
    /// By the address protocol (`IFA_PROTO`, Linux 5.18).
    Kernel,
    /// By a list in the state folder.
    File,
}

/// `--after-handover`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AfterHandover {
    /// End with status 0.
    #[default]
    Exit,
    /// Do nothing until SIGTERM.
    Wait,
}

/// Everything that was configured, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Link devices in order of preference; at least one, no name twice.
    pub links: Vec<String>,
    /// Where objects come from.
    pub source: SourceConfig,
    /// What decisions look at.
    pub policy: Policy,
    /// The proxy plane's limits.
    pub relay: RelayConfig,
    /// What forwards.
    pub datapath: Datapath,
    /// The packet plane.
    pub packet: PacketConfig,
    /// The admin endpoint.
    pub admin: SocketAddr,
    /// What must outlive the agent.
    pub state_dir: PathBuf,
    /// Pins.
    pub bpf_dir: PathBuf,
    /// How added addresses are marked.
    pub address_tag: AddressTag,
    /// What comes after a hand-over.
    pub after_handover: AfterHandover,
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// A Kubernetes API.
    Kubernetes {
        /// `--kubeconfig`.
        kubeconfig: Option<PathBuf>,
        /// `--context`.
        context: Option<String>,
    },
    /// A folder or file.
    Manifests(PathBuf),
}

/// The part of the configuration that decisions look at.
#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    /// Serve only these namespaces; empty: all.
    pub namespaces: Vec<String>,
    /// Where VIPs are given from; empty: the link's own address is used.
    pub pools: Vec<Pool>,
    /// Addresses that Services may ask for besides those of the pools.
    pub allow_vips: Vec<AddressRange>,
    /// Which ports of the machine's own address they may have.
    pub own_ports: OwnPorts,
    /// Nodes or endpoints.
    pub backends: BackendMode,
    /// Narrows the Nodes.
    pub node_selector: Option<Selector>,
    /// Our `loadBalancerClass`.
    pub class: String,
    /// Serve class-less Services too.
    pub default_class: bool,
    /// How Services that do not say it themselves are forwarded by the packet plane.
    pub mode: Mode,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            namespaces: Vec::new(),
            pools: Vec::new(),
            allow_vips: Vec::new(),
            own_ports: OwnPorts::default(),
            backends: BackendMode::Auto,
            node_selector: None,
            class: DEFAULT_CLASS.to_owned(),
            default_class: true,
            mode: Mode::Nat,
        }
    }
}

/// A flag that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--pool`.
    #[error("--pool {text}")]
    Pool {
        /// As given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: PoolError,
    },
    /// `--node-selector`.
    #[error("--node-selector {text}")]
    NodeSelector {
        /// As given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: SelectorError,
    },
    /// Two pools that do not go together.
    #[error("--pool")]
    Pools(#[source] PoolError),
    /// A link twice.
    #[error("--linkdevice {name} is given twice")]
    LinkTwice {
        /// Its name.
        name: String,
    },
    /// A name that the kernel would not take.
    #[error("--linkdevice {name:?}: the name of a link has 1 to 15 characters, without slash or space")]
    LinkName {
        /// As given.
        name: String,
    },
}

impl TryFrom<ServeArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: ServeArgs) -> Result<Self, ConfigError> {
        let (allow_vips, own_ports) = args.permission.into_policy(args.admin.port());
        let policy = Policy {
            namespaces: args.namespaces,
            pools: parse_pools(args.pools)?,
            allow_vips,
            own_ports,
            backends: args.backends,
            node_selector: args.node_selector.map(parse_selector).transpose()?,
            class: args.class,
            default_class: args.default_class,
            mode: args.packet.mode(),
        };
        check_links(&args.links)?;
        let datapath = if args.userspace { Datapath::Userspace } else { args.datapath };
        Ok(Self {
            links: args.links,
            source: match args.manifests {
                Some(path) => SourceConfig::Manifests(path),
                None => SourceConfig::Kubernetes { kubeconfig: args.kubeconfig, context: args.context },
            },
            policy,
            relay: RelayConfig {
                drain_timeout: args.drain_timeout,
                connect_timeout: args.connect_timeout,
                tcp_idle_timeout: args.tcp_idle_timeout,
                tcp_user_timeout: args.tcp_user_timeout,
                udp_idle_timeout: args.udp_idle_timeout,
                max_connections: args.max_connections,
                max_udp_sessions: args.max_udp_sessions,
                workers: args.workers.unwrap_or_else(default_workers),
                splice: args.splice,
                sockmap: (datapath == Datapath::Sockmap).then_some(SockmapConfig {
                    after_reads: args.sockmap_after_reads,
                    max_pairs: args.sockmap_max_pairs.unwrap_or(args.max_connections),
                }),
            },
            datapath,
            packet: args.packet.into(),
            admin: args.admin,
            state_dir: args.state_dir,
            bpf_dir: args.bpf_dir,
            address_tag: args.address_tag,
            after_handover: args.after_handover,
        })
    }
}

fn check_links(links: &[String]) -> Result<(), ConfigError> {
    /// `IFNAMSIZ` less the closing zero byte.
    const LINK_NAME_MAX: usize = 15;
    for (position, name) in links.iter().enumerate() {
        let bad = |c: char| c == '/' || c.is_whitespace();
        if name.is_empty() || name.len() > LINK_NAME_MAX || name.contains(bad) {
            return Err(ConfigError::LinkName { name: name.clone() });
        }
        if links[..position].contains(name) {
            return Err(ConfigError::LinkTwice { name: name.clone() });
        }
    }
    Ok(())
}

fn parse_pools(texts: Vec<String>) -> Result<Vec<Pool>, ConfigError> {
    let parse = |text: String| text.parse().map_err(|source| ConfigError::Pool { text, source });
    let pools: Vec<Pool> = texts.into_iter().map(parse).collect::<Result<_, _>>()?;
    Pool::check_together(&pools).map_err(ConfigError::Pools)?;
    Ok(pools)
}

fn parse_selector(text: String) -> Result<Selector, ConfigError> {
    text.parse().map_err(|source| ConfigError::NodeSelector { text, source })
}

/// `500ms`, `30s`, `5m`, `1h`, or seconds without a unit.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 =
        digits.parse().map_err(|_| "give a whole number with ms, s, m or h, as in 30s".to_owned())?;
    let millis = match &text[digits.len()..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        unit => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
    };
    /// More is surely a slip, and would overflow the clock's arithmetic somewhere.
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
    match millis.map(Duration::from_millis) {
        Some(duration) if duration <= LONGEST => Ok(duration),
        _ => Err("at most 168h".to_owned()),
    }
}

/// The same, but nothing would ever happen within no time at all.
fn parse_limit(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("give more than 0".to_owned()),
        limit => Ok(limit),
    }
}

/// `$KUBECONFIG`, if it names anything. The kube crate looks it up by itself;
/// this only says whether it did, for the error messages.
pub fn kubeconfig_variable() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var("KUBECONFIG").ok().filter(|path| !path.is_empty())
}

/// `RUST_LOG`, the filter of log lines.
pub fn log_filter() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var("RUST_LOG").ok()
}
