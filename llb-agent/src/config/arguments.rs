// SPDX-License-Identifier: Apache-2.0
//! The raw flags of the agent, as clap parses them, in the order of `--help`. Not:
//! whether they make sense together (`validate.rs`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::admin::{Choice, parse_address, parse_socket};
use super::announce::AnnounceArg;
use super::config_map_name::{ConfigMapName, parse_config_map};
use super::datapath::{Datapath, PacketArgs, PortRange};
use super::defaults::{DEFAULT_ADMIN, DEFAULT_BPF_DIR, DEFAULT_STATE_DIR};
use super::duration::parse_duration;
use super::group::GroupArgs;
use super::health::HealthArgs;
use super::lease::{LeaseChoice, parse_lease};
use super::permission::parse_ports;
use super::policy::{
    BackendMode, DEFAULT_CLASS, DEFAULT_NAMESPACE_FRONTENDS, DEFAULT_NAMESPACE_VIPS, FinalizerMode,
    default_vip_rest,
};
use super::relay::RelayArgs;
use super::settings::{AddressTag, AfterHandover};
use super::values::{parse_link, parse_pool, parse_selector};
use crate::model::{AddressRange, Pool, Selector};
use crate::telemetry::{DEFAULT_FILTER, parse_filter};

const SOURCE: &str = "Source of objects";
const SERVICES: &str = "Services and their VIPs";
const BACKENDS: &str = "Backends";
const FORWARDING: &str = "Forwarding";
const PROCESS: &str = "Files, restart and observation";

/// The flags of the agent without a subcommand.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Link device that VIPs are added to; repeatable
    ///
    /// A VIP is added to the link whose subnet contains it, or else to the first one. At least one is needed, as a flag
    /// or in the configuration file.
    #[arg(long = "linkdevice", value_name = "NAME", value_parser = parse_link)]
    pub(super) links: Vec<String>,

    /// Configuration file [default: /etc/llb/llb.toml, if it is there]
    ///
    /// It is TOML, and has a key for each of these flags: its name without the dashes. A flag counts before the key.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Kubeconfig file [default: $KUBECONFIG, then ~/.kube/config, then the Pod's ServiceAccount]
    #[arg(long, value_name = "FILE", conflicts_with = "manifests", help_heading = SOURCE)]
    pub(super) kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: its current context]
    #[arg(long, value_name = "NAME", conflicts_with = "manifests", help_heading = SOURCE)]
    pub(super) context: Option<String>,

    /// Read Kubernetes objects from a file or folder instead of a cluster
    ///
    /// The files are YAML or JSON. Changes are followed.
    #[arg(long, value_name = "DIR|FILE", help_heading = SOURCE)]
    pub(super) manifests: Option<PathBuf>,

    /// Serve only Services of this namespace; repeatable [default: all namespaces]
    #[arg(long = "namespace", value_name = "NAME", help_heading = SERVICES)]
    pub(super) namespaces: Vec<String>,

    /// The spec.loadBalancerClass of the Services to serve
    #[arg(long, value_name = "CLASS", default_value = DEFAULT_CLASS, help_heading = SERVICES)]
    pub(super) class: String,

    /// Also serve Services without a spec.loadBalancerClass
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set,
        help_heading = SERVICES
    )]
    pub(super) default_class: bool,

    /// Lease by which the agents of one group agree on the one that writes statuses and Events [default:
    /// kube-system/CLASS, or CLASS in the first --namespace]
    ///
    /// All agents with the same Lease are one group. The others serve, and write nothing. off: this agent writes without asking.
    #[arg(long, value_name = "NAMESPACE/NAME|off", value_parser = parse_lease, conflicts_with = "manifests", help_heading = SERVICES)]
    pub(super) lease: Option<LeaseChoice>,

    /// Honour annotations of MetalLB and kube-vip that ask for what llb does too: addresses, a pool, sharing
    ///
    /// They count if llb's own annotation is missing: metallb.io/loadBalancerIPs and kube-vip.io/loadbalancerIPs as llb.dev/vips,
    /// metallb.io/address-pool as llb.dev/pool, metallb.io/allow-shared-ip as llb.dev/sharing-key, and the same with
    /// metallb.universe.tf/. What is not honoured is named in an Event. Other rules are the same: a pool must exist here,
    /// addresses must be allowed. false: all of them are ignored.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set,
        help_heading = SERVICES
    )]
    pub(super) foreign_annotations: bool,

    /// Addresses for Services that ask for none; repeatable [default: the link device's own address]
    ///
    /// POOL is [NAME=]RANGE[,RANGE...][+OPTION=VALUE...]. RANGE is a CIDR, FIRST-LAST or a single address. Services get the
    /// first free address of the first pool that is for them. Options: namespaces=A,B: only for Services of these namespaces.
    /// selector=LABELS: only for Services with these labels, as in --node-selector. auto=false: only for Services with the
    /// annotation llb.dev/pool: NAME. shared=true: Services of different namespaces may share its addresses, if they have the
    /// same annotation llb.dev/sharing-key. routed=true: routers lead clients to its addresses, so these need be in no subnet
    /// of a link device. avoid-buggy-ips=true: addresses that end with .0 or .255 are given only on request.
    #[arg(long = "pool", value_name = "POOL", value_parser = parse_pool, help_heading = SERVICES)]
    pub(super) pools: Vec<Pool>,

    /// ConfigMap with further pools, in its key llb.toml, as [[pool]] tables of the configuration file
    ///
    /// Changes are followed. Its pools come after those of --pool. With mistakes in it, or without it, its last pools without
    /// mistakes stay. Until they are known for the first time, nothing is served. At most 256 pools and 64 KiB. `llb-agent
    /// rbac --config-map` prints the right for it.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_config_map, conflicts_with = "manifests", help_heading = SERVICES)]
    pub(super) config_map: Option<ConfigMapName>,

    /// Addresses that Services may ask for besides those of the pools; repeatable [default: without a pool, the subnets of
    /// the link devices]
    ///
    /// RANGE is a CIDR, FIRST-LAST or a single address. Several are separated by commas.
    #[arg(long, value_name = "RANGE", value_delimiter = ',', help_heading = SERVICES)]
    pub(super) allow_vips: Vec<AddressRange>,

    /// Reserved ports of the machine's own address that Services may have; repeatable
    ///
    /// PORTS is a port or FIRST-LAST. Several are separated by commas. Reserved are 22, 2379, 2380, 6443, 10250, the port
    /// of --admin, and the ports of net.ipv4.ip_local_port_range. Other VIPs have no reserved ports.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = parse_ports, help_heading = SERVICES)]
    pub(super) allow_ports: Vec<PortRange>,

    /// Most VIPs that the Services of one namespace can have; the machine's own addresses do not count
    #[arg(long, value_name = "N", default_value_t = DEFAULT_NAMESPACE_VIPS, help_heading = SERVICES)]
    pub(super) namespace_vips: usize,

    /// Most frontends (VIPs times ports) that the Services of one namespace can have
    #[arg(long, value_name = "N", default_value_t = DEFAULT_NAMESPACE_FRONTENDS, help_heading = SERVICES)]
    pub(super) namespace_frontends: usize,

    /// How long a released VIP rests before another Service gets it
    #[arg(long, value_name = "TIME", default_value = default_vip_rest(), value_parser = parse_duration, help_heading = SERVICES)]
    pub(super) vip_rest: Duration,

    /// Whether a Service is kept until its VIPs are gone: finalizer service.kubernetes.io/load-balancer-cleanup
    ///
    /// It can't be deleted while llb does not run. In a Pod llb is started again by the cluster, so auto means on there
    /// (unless --kubeconfig or $KUBECONFIG names a cluster). Outside of the cluster auto means off: a dead machine would
    /// hold up every deletion.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = SERVICES)]
    pub(super) finalizer: FinalizerMode,

    /// How llb recognizes the addresses that it added
    #[arg(long, value_name = "HOW", value_enum, default_value_t, help_heading = SERVICES)]
    pub(super) address_tag: AddressTag,

    /// How clients find the way to VIPs
    ///
    /// With routed, each machine whose link devices have a carrier has all VIPs, and routers spread clients over the machines.
    /// Services must be in mode dsr, or be relayed.
    #[arg(long, value_name = "HOW", value_enum, default_value_t, help_heading = SERVICES)]
    pub(super) announce: AnnounceArg,

    /// Where traffic goes
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = BackendMode::Auto, help_heading = BACKENDS)]
    pub(super) backends: BackendMode,

    /// Use only Nodes with these labels [default: all Nodes except control-plane Nodes]
    ///
    /// SELECTOR is a comma-separated list of KEY, KEY=VALUE, KEY!=VALUE and !KEY. The word `worker` stands for the label
    /// node-role.kubernetes.io/worker.
    #[arg(long, value_name = "SELECTOR", value_parser = parse_selector, help_heading = BACKENDS)]
    pub(super) node_selector: Option<Selector>,

    #[command(flatten, next_help_heading = "Several boxes")]
    pub(super) group: GroupArgs,

    #[command(flatten, next_help_heading = "Health checks")]
    pub(super) health: HealthArgs,

    /// What forwards traffic
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value_t,
        conflicts_with = "userspace",
        help_heading = FORWARDING
    )]
    pub(super) datapath: Datapath,

    /// The same as --datapath userspace
    #[arg(long, help_heading = FORWARDING)]
    pub(super) userspace: bool,

    #[command(flatten, next_help_heading = "Packet plane")]
    pub(super) packet: PacketArgs,

    #[command(flatten, next_help_heading = "Relay")]
    pub(super) relay: RelayArgs,

    /// Folder for files that must survive a restart
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR, help_heading = PROCESS)]
    pub(super) state_dir: PathBuf,

    /// Folder of the BPF file system for eBPF programs and maps
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_DIR, help_heading = PROCESS)]
    pub(super) bpf_dir: PathBuf,

    /// Where /healthz, /readyz, /metrics and /state are served over TCP; off: only at --admin-socket
    #[arg(long, value_name = "ADDRESS:PORT|off", default_value = DEFAULT_ADMIN, value_parser = parse_address, help_heading = PROCESS)]
    pub(super) admin: Choice<SocketAddr>,

    /// Unix socket where the same is served [default: admin.sock in $RUNTIME_DIRECTORY, which systemd sets; else off]
    ///
    /// Only its owner and its group may use it (mode 0660). Subcommands ask at /run/llb/admin.sock first.
    #[arg(long, value_name = "PATH|off", value_parser = parse_socket, help_heading = PROCESS)]
    pub(super) admin_socket: Option<Choice<PathBuf>>,

    /// Group that may use the Unix socket, by name or number [default: the agent's own group]
    #[arg(long, value_name = "GROUP", help_heading = PROCESS)]
    pub(super) admin_group: Option<String>,

    /// What the agent does after a newer agent has taken over and the last old connection has ended
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, help_heading = PROCESS)]
    pub(super) after_handover: AfterHandover,

    /// Which log lines are written: error, warn, info, debug or trace, or a filter as in RUST_LOG, which counts before the
    /// configuration file
    #[arg(long, value_name = "FILTER", default_value = DEFAULT_FILTER, value_parser = parse_filter, help_heading = PROCESS)]
    pub(super) log: String,
}
