// SPDX-License-Identifier: Apache-2.0
//! The raw flags of the agent, as clap parses them. Not: whether they make sense
//! together (`validate.rs`).

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::datapath::{Datapath, PacketArgs};
use super::defaults::{DEFAULT_ADMIN, DEFAULT_BPF_DIR, DEFAULT_STATE_DIR};
use super::duration::{parse_duration, parse_limit};
use super::policy::{BackendMode, DEFAULT_CLASS};
use super::settings::{AddressTag, AfterHandover};

/// The flags of the agent proper.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Link device that gets the VIPs (repeatable: a VIP goes to the one whose subnet holds it, else to the first)
    #[arg(long = "linkdevice", value_name = "NAME", required = true)]
    pub(super) links: Vec<String>,

    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, then the Pod's ServiceAccount]
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", conflicts_with = "manifests")]
    pub(super) context: Option<String>,

    /// Read Kubernetes YAML or JSON from a folder or file instead of a cluster, and follow its changes
    #[arg(long, value_name = "DIR|FILE")]
    pub(super) manifests: Option<PathBuf>,

    /// Serve only Services of this namespace (repeatable) [default: all]
    #[arg(long = "namespace", value_name = "NAME")]
    pub(super) namespaces: Vec<String>,

    /// Addresses to give to Services that ask for none: [NAME=]RANGE[,RANGE...][+namespaces=A,B][+auto=false], where
    /// RANGE is a CIDR, FIRST-LAST or a single address; with auto=false only to Services with annotation
    /// llb.dev/pool: NAME (repeatable) [default: the link device's own primary address]
    #[arg(long = "pool", value_name = "POOL")]
    pub(super) pools: Vec<String>,

    /// Where traffic goes: node address + nodePort, or ready endpoints; auto takes nodes where the port has a nodePort
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = BackendMode::Auto)]
    pub(super) backends: BackendMode,

    /// Use only Nodes with these labels: KEY, KEY=VALUE, KEY!=VALUE or !KEY, comma-separated;
    /// `worker` stands for node-role.kubernetes.io/worker [default: all but control-plane nodes]
    #[arg(long, value_name = "SELECTOR")]
    pub(super) node_selector: Option<String>,

    /// The spec.loadBalancerClass that is ours
    #[arg(long, value_name = "CLASS", default_value = DEFAULT_CLASS)]
    pub(super) class: String,

    /// Also serve Services without a loadBalancerClass
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub(super) default_class: bool,

    /// What forwards: packet programs at XDP or TC, or the relay (its bytes moved by the kernel's sockmap, or in user
    /// space); auto takes for each Service the first of xdp, tc and userspace that can serve it
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, conflicts_with = "userspace")]
    pub(super) datapath: Datapath,

    /// Whether the relay splices bulk data (splice(2)) or copies all
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub(super) splice: bool,

    /// With --datapath sockmap: after how many small reads of the relay, without bulk data among them, the kernel goes on
    /// with a connection's bytes
    #[arg(long, value_name = "N", default_value = "32")]
    pub(super) sockmap_after_reads: u32,

    /// With --datapath sockmap: connections whose bytes the kernel moves at one time; all others are relayed in user space
    /// [default: --max-connections]
    #[arg(long, value_name = "N")]
    pub(super) sockmap_max_pairs: Option<NonZeroUsize>,

    /// The same as --datapath userspace: leave the kernel's packet path alone
    #[arg(long)]
    pub(super) userspace: bool,

    #[command(flatten)]
    pub(super) packet: PacketArgs,

    /// Where /healthz, /readyz, /metrics and /state are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_ADMIN)]
    pub(super) admin: SocketAddr,

    /// Where llb keeps what must outlive it
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub(super) state_dir: PathBuf,

    /// Where programs and maps are pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
    pub(super) bpf_dir: PathBuf,

    /// How addresses that llb added are marked: by the kernel's address protocol (Linux 5.18), or in the state folder
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub(super) address_tag: AddressTag,

    /// How long old connections may go on after their Service, port or the agent ends
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = parse_duration)]
    pub(super) drain_timeout: Duration,

    /// What an agent does when another one has taken over and its connections have ended. A Pod would be started again
    /// after exit, and take over in turn: it waits for SIGTERM
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub(super) after_handover: AfterHandover,

    /// How long a connection to one backend may take before the next is tried
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_limit)]
    pub(super) connect_timeout: Duration,

    /// How long a TCP connection may be silent in both directions; a day, as kube-proxy's connection tracking allows
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_limit)]
    pub(super) tcp_idle_timeout: Duration,

    /// How long sent data may go unacknowledged, also by a peer that pauses reading [default: the kernel's limit,
    /// net.ipv4.tcp_retries2, which spares the latter]
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    pub(super) tcp_user_timeout: Option<Duration>,

    /// How long a UDP session may be silent
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_limit)]
    pub(super) udp_idle_timeout: Duration,

    /// Connections at one time; one more is refused
    #[arg(long, value_name = "N", default_value = "16384")]
    pub(super) max_connections: NonZeroUsize,

    /// UDP sessions at one time; the datagrams of one more are dropped
    #[arg(long, value_name = "N", default_value = "16384")]
    pub(super) max_udp_sessions: NonZeroUsize,

    /// Threads that relay; each has a listening socket for each port of a Service [default: one for each core, at most 16]
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<NonZeroUsize>,
}
