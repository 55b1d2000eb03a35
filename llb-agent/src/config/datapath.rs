// SPDX-License-Identifier: Apache-2.0
//! The choice of the data plane, and the flags of the packet plane.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use super::count::parse_count;
use crate::model::Mode;

/// `--datapath`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Datapath {
    /// Packet programs: at XDP if the link allows it, else at TC. Services that these cannot serve are relayed in user
    /// space
    #[default]
    Auto,
    /// As auto, but only at XDP
    Xdp,
    /// As auto, but only at TC
    Tc,
    /// The relay only; for TCP the kernel moves data from socket to socket
    Sockmap,
    /// The relay in user space only; no eBPF programs
    Userspace,
}

impl Datapath {
    /// Whether packet programs are attached to links.
    pub const fn has_packet_plane(self) -> bool {
        matches!(self, Self::Auto | Self::Xdp | Self::Tc)
    }
}

/// `--xdp-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// In the network driver
    #[default]
    Native,
    /// After the network driver. Works on every link, but is slower than TC. For tests, with GRO off (ethtool -K LINK gro
    /// off), because merged segments are too large for it
    Generic,
}

/// `--tc-attach`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TcAttachment {
    /// As a tcx link if the kernel has them, else as clsact
    #[default]
    Auto,
    /// As a filter of the clsact qdisc
    Clsact,
}

/// `--at-stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AtStop {
    /// The packet plane keeps forwarding, and its VIPs stay, until an agent starts again or `llb-agent detach` is run
    #[default]
    Keep,
    /// Let connections end (see --drain-timeout), then remove everything
    Remove,
}

/// `--return-path`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReturnPath {
    /// To the link and the MAC address from which the client's last packet came
    #[default]
    Mac,
    /// By the routing table of this machine. Needs the sysctls net.ipv4.conf.lo.forwarding and
    /// net.ipv6.conf.lo.forwarding
    Routes,
}

/// A range of source ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// At least 1.
    pub first: u16,
    /// At least `first`.
    pub last: u16,
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (first, last) = text.split_once('-')?;
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        };
        match parse() {
            Some(range) if range.first >= 1 && range.first <= range.last => Ok(range),
            _ => Err("give two ports from 1 to 65535, the lower one first, as in 1024-32767".to_owned()),
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The raw flags of the packet plane.
#[derive(Debug, Args)]
pub(super) struct PacketArgs {
    /// The forwarding mode of Services without the annotation llb.dev/mode
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    mode: ModeArg,

    /// Most connections at one time; each takes about 228 bytes [default: as many as fit into 1/256 of the memory, but at least
    /// 65536 and at most 4194304]
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroU32>)]
    max_flows: Option<NonZeroU32>,

    /// Most backends, over all ports of all Services; Services with further backends are relayed
    #[arg(long, value_name = "N", default_value = "16384", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    max_backends: u32,

    /// Source ports that backends see in mode nat [default: from 1024 to below
    /// net.ipv4.ip_local_port_range, or those above it if there are more; if it leaves none, all from 1024]
    #[arg(long, value_name = "FIRST-LAST")]
    snat_ports: Option<PortRange>,

    /// Where in the kernel XDP programs run
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    xdp_mode: XdpMode,

    /// How the program at TC is attached; for tests of what older kernels get
    #[arg(long, value_name = "HOW", value_enum, default_value_t, hide = true)]
    tc_attach: TcAttachment,
    /// Which way replies to clients take in mode nat, in the packet plane
    #[arg(long, value_name = "WAY", value_enum, default_value_t)]
    return_path: ReturnPath,

    /// What happens to the packet plane when the agent is stopped; relayed connections end in any case
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    at_stop: AtStop,
}

/// [`Mode`] as a flag, since the model does not know clap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// Rewrite addresses and ports of packets in both directions
    #[default]
    Nat,
    /// Direct server return: send packets unchanged to Nodes on the same segment, which answer the clients directly
    Dsr,
}

impl PacketArgs {
    pub(super) fn mode(&self) -> Mode {
        match self.mode {
            ModeArg::Nat => Mode::Nat,
            ModeArg::Dsr => Mode::Dsr,
        }
    }
}

/// The limits of the packet plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketConfig {
    /// The most connections; `None`: as many as fit into 1/256 of the memory, within bounds (`map_sizes.rs`).
    pub max_flows: Option<NonZeroU32>,
    /// The most backends, up to 2^20; 0: the default number.
    pub max_backends: u32,
    /// Source ports of mode NAT; `None`: those that the host's own sockets do not use.
    pub snat_ports: Option<PortRange>,
    /// Where XDP programs run.
    pub xdp_mode: XdpMode,
    /// How the program at TC is attached.
    pub tc_attach: TcAttachment,
    /// Which way replies to clients take.
    pub return_path: ReturnPath,
    /// What happens to the packet plane when the agent is stopped.
    pub at_stop: AtStop,
}

impl From<PacketArgs> for PacketConfig {
    fn from(args: PacketArgs) -> Self {
        Self {
            max_flows: args.max_flows,
            max_backends: args.max_backends,
            snat_ports: args.snat_ports,
            xdp_mode: args.xdp_mode,
            tc_attach: args.tc_attach,
            return_path: args.return_path,
            at_stop: args.at_stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_range_is_first_and_last() {
        assert_eq!("1024-32767".parse(), Ok(PortRange { first: 1024, last: 32_767 }));
        for text in ["", "1024", "0-9", "9-8", "1-65536", "a-b"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }
}
