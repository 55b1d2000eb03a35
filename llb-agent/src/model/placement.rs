// SPDX-License-Identifier: Apache-2.0
//! Which plane serves a frontend, in which mode, and why. A reason is a value; its
//! text is what `explain`, Events and `/state` show.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::mode::Mode;
use super::planes::{Hook, NoPacketPlane};

/// A mechanism that forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaneKind {
    /// Programs at links rewrite each packet.
    Packet,
    /// Accepted connections; the kernel moves their bytes from socket to socket.
    Sockmap,
    /// Accepted connections, relayed in user space.
    #[default]
    Userspace,
}

impl fmt::Display for PlaneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packet => "packet",
            Self::Sockmap => "sockmap",
            Self::Userspace => "userspace",
        })
    }
}

/// Which plane serves a frontend, in which mode, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// The plane.
    pub plane: PlaneKind,
    /// The packet plane's mode; no other plane has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Why this plane serves and no other. `None`: nothing was chosen, as where only a relay exists.
    #[serde(serialize_with = "text_or_empty")]
    pub why: Option<PlacementReason>,
}

/// Why a plane serves a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlacementReason {
    /// The packet plane can serve it.
    Packet {
        /// The hooks of the links' programs.
        hooks: BTreeSet<Hook>,
        /// The Service asks for mode DSR; this prevents it.
        not_dsr: Option<PacketObstacle>,
    },
    /// The packet plane still belongs to the agent before this one, which serves it.
    Predecessor,
    /// There is no packet plane.
    NoPacketPlane(NoPacketPlane),
    /// The Service asks for something that only the relay has.
    NeedsRelay(RelayFeature),
    /// A backend is where the packet plane can't send packets.
    Obstacle(PacketObstacle),
    /// A limit of the packet plane is reached.
    Full(PacketLimit),
    /// The kernel refused what the packet plane asked of it.
    KernelRefused {
        /// The error with its causes.
        error: String,
    },
    /// What the relay says about itself.
    Relay(RelayReason),
}

impl PlacementReason {
    /// The kind of the reason, for metrics: one of a closed list.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Packet { not_dsr: None, .. } => "packet",
            Self::Packet { not_dsr: Some(_), .. } => "packet_not_dsr",
            Self::Predecessor => "predecessor",
            Self::NoPacketPlane(_) => "no_packet_plane",
            Self::NeedsRelay(_) => "needs_relay",
            Self::Obstacle(_) => "obstacle",
            Self::Full(_) => "full",
            Self::KernelRefused { .. } => "kernel_refused",
            Self::Relay(_) => "relay",
        }
    }
}

/// What only the relay can do for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayFeature {
    /// `llb.dev/proxy-protocol`.
    ProxyProtocol,
    /// `llb.dev/max-connections`.
    MaxConnections,
    /// `llb.dev/balance: least-connections`.
    LeastConnections,
}

/// Why the packet plane can't send packets to the backends of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketObstacle {
    /// The backend is this machine.
    ThisMachine {
        /// The backend's address.
        backend: IpAddr,
    },
    /// The route to the backend leaves by a link without a program.
    OtherLink {
        /// The backend's address.
        backend: IpAddr,
    },
    /// DSR only: the backend is no Node, so nothing there answers for the VIP.
    NotANode {
        /// The backend's address.
        backend: IpAddr,
    },
    /// DSR only: a router would not deliver packets that are addressed to the VIP.
    BehindRouter {
        /// The backend's address.
        backend: IpAddr,
        /// The router's address.
        router: IpAddr,
    },
    /// The link to the backend has no IPv6 link-local address, so its MAC address can't be kept up to date.
    NoLinkLocal {
        /// The backend's address.
        backend: IpAddr,
    },
    /// NAT only: this machine would use more of its addresses as sources than the programs know.
    TooManySources {
        /// How many addresses it would use.
        needed: usize,
        /// How many are possible.
        most: usize,
    },
}

/// A limit of the packet plane's maps that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketLimit {
    /// No id is free for another frontend.
    #[error("all {most} frontends of the packet plane are in use")]
    Frontends {
        /// How many there are.
        most: u32,
    },
    /// `--max-backends`.
    #[error("all {most} backends of the packet plane are in use (--max-backends)")]
    Backends {
        /// How many there are.
        most: u32,
    },
    /// No run of free chunks is long enough for another selection table.
    #[error("no selection table of {slots} slots fits into the packet plane's {most} chunks of 1,024 slots")]
    Tables {
        /// How many slots the table needs.
        slots: u32,
        /// How many chunks there are.
        most: u32,
    },
}

/// What the relay says about its way of moving bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayReason {
    /// `--datapath sockmap`, and the kernel can.
    Sockmap,
    /// `--datapath sockmap`, but the kernel can't.
    NoSockmap {
        /// The error with its causes.
        error: String,
    },
    /// `--datapath sockmap`, which is for TCP.
    SockmapHasNoUdp,
}

impl fmt::Display for PlacementReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet { hooks, not_dsr } => {
                let hooks: Vec<String> = hooks.iter().map(ToString::to_string).collect();
                write!(f, "at {}", hooks.join(", "))?;
                not_dsr.iter().try_for_each(|obstacle| write!(f, "; not in mode dsr: {obstacle}"))
            }
            Self::Predecessor => f.write_str("as the agent before this one"),
            Self::NoPacketPlane(why @ NoPacketPlane::Flag(_)) => why.fmt(f),
            Self::NoPacketPlane(why) => write!(f, "no packet plane: {why}"),
            Self::NeedsRelay(feature) => feature.fmt(f),
            Self::Obstacle(obstacle) => obstacle.fmt(f),
            Self::Full(limit) => limit.fmt(f),
            Self::KernelRefused { error } => f.write_str(error),
            Self::Relay(reason) => reason.fmt(f),
        }
    }
}

impl Serialize for PlacementReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for RelayFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProxyProtocol => "only the relay speaks the PROXY protocol (llb.dev/proxy-protocol)",
            Self::MaxConnections => "only the relay counts connections (llb.dev/max-connections)",
            Self::LeastConnections => {
                "only the relay knows the backend with the fewest connections (llb.dev/balance)"
            }
        })
    }
}

impl fmt::Display for PacketObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisMachine { backend } => write!(f, "backend {backend} is this machine itself"),
            Self::OtherLink { backend } => {
                write!(
                    f,
                    "backend {backend} is reached through a link that is not a --linkdevice, or has no Ethernet header"
                )
            }
            Self::NoLinkLocal { backend } => write!(
                f,
                "the link to backend {backend} has no IPv6 link-local address, without which the kernel does not look \
                 for neighbours by itself; give it one (`ip link set LINK addrgenmode eui64`)"
            ),
            Self::NotANode { backend } => write!(f, "backend {backend} is not a Node"),
            Self::BehindRouter { backend, router } => {
                write!(f, "backend {backend} is behind the router {router}")
            }
            Self::TooManySources { needed, most } => {
                write!(f, "backends would see {needed} addresses of this machine; {most} are possible")
            }
        }
    }
}

impl fmt::Display for RelayReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sockmap => f.write_str("--datapath sockmap; the self-test passed"),
            Self::NoSockmap { error } => write!(f, "no sockmap: {error}"),
            Self::SockmapHasNoUdp => f.write_str("sockmap has no UDP"),
        }
    }
}

/// Readers of `/state` find a string in any case.
fn text_or_empty<S: Serializer>(why: &Option<PlacementReason>, serializer: S) -> Result<S::Ok, S::Error> {
    match why {
        Some(why) => why.serialize(serializer),
        None => serializer.serialize_str(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_shows_reasons_as_text() {
        let backend = "192.0.2.31".parse().unwrap();
        let not_dsr = Some(PacketObstacle::NotANode { backend });
        let why = PlacementReason::Packet { hooks: Hook::ALL.into(), not_dsr };
        let placement = Placement { plane: PlaneKind::Packet, mode: Some(Mode::Nat), why: Some(why) };
        assert_eq!(
            serde_json::to_value(placement).unwrap(),
            serde_json::json!({
                "plane": "packet",
                "mode": "nat",
                "why": "at xdp, tc; not in mode dsr: backend 192.0.2.31 is not a Node",
            })
        );
        let relayed = serde_json::to_value(Placement::default()).unwrap();
        assert_eq!(relayed, serde_json::json!({ "plane": "userspace", "why": "" }));
    }

    #[test]
    fn an_error_is_introduced_once_and_a_flag_speaks_for_itself() {
        let failed = NoPacketPlane::Failed { error: "no rights".to_owned() };
        assert_eq!(PlacementReason::NoPacketPlane(failed).to_string(), "no packet plane: no rights");
        let flag = NoPacketPlane::Flag("--datapath userspace");
        assert_eq!(PlacementReason::NoPacketPlane(flag).to_string(), "--datapath userspace");
    }
}
