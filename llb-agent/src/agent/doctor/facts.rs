// SPDX-License-Identifier: Apache-2.0
//! What was found on the machine, on the segment and in the cluster, as plain data. `collect/` reads it, and `judge/` decides
//! what it means. A text in an `Err` is an error with its causes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::addresses::{Belief, Holder};
use crate::dataplane::packet::HookForecast;
use crate::kernel::{Cap, KernelAbilities};
use crate::model::{Facts as MachineFacts, Mac, Snapshot};
use crate::netlink::LinkDevice;
use crate::source::Inspection;

/// The machine, apart from its links.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) kernel: KernelAbilities,
    /// The capabilities that the process does not have.
    pub(super) missing: Vec<Cap>,
    /// This program contains the packet programs.
    pub(super) has_programs: bool,
    pub(super) bpf_dir: BpfDir,
    /// Bytes that the process may lock; `None`: no limit.
    pub(super) memlock: Option<u64>,
    /// The hard limit of open files; `None`: no limit.
    pub(super) open_files: Option<u64>,
    pub(super) state_dir: StateDir,
    pub(super) is_loopback_up: bool,
    /// Whether `ip_forward` is on.
    pub(super) forwards: bool,
    /// What keeps `--return-path routes` from working.
    pub(super) return_path: Vec<String>,
}

/// Where programs are pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BpfDir {
    OnBpffs,
    /// It is a bpffs, but this process may not write there.
    NotWritable,
    /// The agent mounts it if it has the right to.
    NotMounted,
    /// Another file system, and not the place where the agent would mount one.
    Elsewhere,
}

/// The state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StateDir {
    Usable,
    /// The agent makes it.
    Absent,
    /// With the reason.
    Unusable(String),
}

/// One `--linkdevice`.
#[derive(Clone, Debug)]
pub(super) struct LinkReport {
    pub(super) device: LinkDevice,
    /// The kernel's name of it. The command line may have an alternative one.
    pub(super) kernel_name: String,
    /// The name of the driver, if the link is hardware.
    pub(super) driver: Option<String>,
    /// The bridge or bond whose port this link is, and the kind of that one.
    pub(super) master: Option<(String, String)>,
    pub(super) forecast: Option<HookForecast>,
    /// The error means that the kernel could not be asked.
    pub(super) lro: Result<bool, String>,
    pub(super) hardware_gro: Result<bool, String>,
    /// Who has its lock.
    pub(super) holder: Option<Holder>,
    /// The programs of an llb-agent are pinned for it in --bpf-dir; `None`: the process may not look.
    pub(super) has_pins: Option<bool>,
    /// The value that takes effect: the larger of the setting for all links and that of this link.
    pub(super) rp_filter: u8,
}

/// All links.
#[derive(Clone, Debug)]
pub(super) struct Links {
    pub(super) reports: Vec<LinkReport>,
    /// Names on the command line that no link has.
    pub(super) missing: Vec<String>,
    /// The names of all links of the machine.
    pub(super) all: Vec<String>,
    /// How many links have an IPv4 address, without loopback.
    pub(super) with_ipv4: usize,
    /// Addresses, and what the machine needs.
    pub(super) machine: MachineFacts,
}

/// What probes on the segment have found.
#[derive(Clone, Debug, Default)]
pub(super) struct Probed {
    pub(super) asked: usize,
    /// More free addresses than were asked for are in the pools and in subnets of the links.
    pub(super) is_partial: bool,
    pub(super) owners: BTreeMap<IpAddr, Mac>,
}

/// The source of objects.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    /// Where it is: the URL of the API server, or a path.
    pub(super) place: String,
    /// Why there is none.
    pub(super) failure: Option<String>,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// What the source itself says is wrong.
    pub(super) problems: Vec<String>,
    /// Only of a cluster.
    pub(super) inspection: Option<Inspection>,
    /// Addresses that the machine needs to reach the API.
    pub(super) api_servers: BTreeSet<IpAddr>,
}

/// What came of a connection to a Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    Refused,
    /// It did not answer in time.
    Silent,
    /// This machine has no route to it.
    NoRoute,
}

/// Connections to Nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Reached {
    /// The Service whose nodePort was tried; `None`: the port of the kubelet.
    pub(super) service: Option<String>,
    pub(super) answers: Vec<(String, SocketAddr, Answer)>,
    /// Addresses that were left out.
    pub(super) left_out: usize,
    /// All addresses of the Nodes, also those that nobody connected to.
    pub(super) nodes: Vec<IpAddr>,
}

/// What became of `--try-address`.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) address: IpAddr,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in no subnet of a link that can be used.
    NoLink,
    /// This machine has it.
    Own,
    /// Another host has it.
    Taken(Mac),
    /// There is no neighbour that could be asked.
    NoNeighbour,
    /// This neighbour was asked.
    Asked(IpAddr, Belief),
    /// The kernel refused.
    Failed(String),
}

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) machine: Machine,
    pub(super) links: Result<Links, String>,
    pub(super) source: Source,
    /// The error is one of the sockets.
    pub(super) probed: Result<Probed, String>,
    pub(super) reached: Reached,
    pub(super) trial: Option<Trial>,
}
