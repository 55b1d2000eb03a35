// SPDX-License-Identifier: Apache-2.0
//! The flags of the planes in the kernel.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use crate::model::Mode;

/// `--datapath`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Datapath {
    /// For each link XDP, else TC; for each Service these, else the relay.
    #[default]
    Auto,
    /// As auto, but at XDP or not at all.
    Xdp,
    /// As auto, but at TC or not at all.
    Tc,
    /// The relay, whose bytes the kernel moves from socket to socket.
    Sockmap,
    /// The relay in user space.
    Userspace,
}

impl Datapath {
    /// Whether packet programs are put on links.
    pub const fn has_packet_plane(self) -> bool {
        matches!(self, Self::Auto | Self::Xdp | Self::Tc)
    }
}

/// `--xdp-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// In the driver, before the kernel makes its own copy of a frame.
    #[default]
    Native,
    /// Behind the driver: on every link, and slower than TC. For tests, with
    /// GRO off (ethtool -K LINK gro off): merged segments are too big for it
    Generic,
}

/// `--at-stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AtStop {
    /// What the packet plane serves goes on, with its VIPs, until an agent
    /// comes again or `llb-agent detach` removes it.
    #[default]
    Keep,
    /// Drain, then take everything away.
    Remove,
}

/// Source ports that backends see: both ends included.
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

/// The flags of the packet plane.
#[derive(Debug, Args)]
pub(super) struct PacketArgs {
    /// How the packet plane forwards: nat rewrites addresses and ports; dsr leaves packets as they are and sends them to
    /// Nodes on the same segment, which answer clients themselves. A Service's annotation llb.dev/mode goes first
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    mode: ModeArg,

    /// Connections that the packet plane has room for, about 228 bytes each [default: 1/256 of the memory]
    #[arg(long, value_name = "N")]
    max_flows: Option<NonZeroU32>,

    /// Backends that the packet plane has, over all ports of all Services; a Service beyond is relayed
    #[arg(long, value_name = "N", default_value = "16384", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    max_backends: u32,

    /// Source ports that backends see in mode nat [default: those below net.ipv4.ip_local_port_range, from 1024]
    #[arg(long, value_name = "FIRST-LAST")]
    snat_ports: Option<PortRange>,

    /// Where XDP programs run
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    xdp_mode: XdpMode,

    /// What becomes of the packet plane when the agent is stopped by SIGTERM. What is relayed ends in any case
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    at_stop: AtStop,
}

/// [`Mode`] without clap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    #[default]
    Nat,
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
    /// Absent: from memory.
    pub max_flows: Option<NonZeroU32>,
    /// At most 2^20; 0: as many as there are by default.
    pub max_backends: u32,
    /// Absent: what the host's own sockets leave.
    pub snat_ports: Option<PortRange>,
    /// Where XDP programs run.
    pub xdp_mode: XdpMode,
    /// What becomes of it at the end.
    pub at_stop: AtStop,
}

impl From<PacketArgs> for PacketConfig {
    fn from(args: PacketArgs) -> Self {
        Self {
            max_flows: args.max_flows,
            max_backends: args.max_backends,
            snat_ports: args.snat_ports,
            xdp_mode: args.xdp_mode,
            at_stop: args.at_stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports_have_two_ends_in_order() {
        assert_eq!("1024-32767".parse(), Ok(PortRange { first: 1024, last: 32_767 }));
        for text in ["", "1024", "0-9", "9-8", "1-65536", "a-b"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }
}
