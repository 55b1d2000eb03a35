// SPDX-License-Identifier: Apache-2.0
//! What the planes report about this machine: links with their hooks.

use std::fmt;

use serde::{Serialize, Serializer};

/// The planes of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanesState {
    /// Links with a program of the packet plane.
    pub links: Vec<LinkPlane>,
    /// Link devices whose frames have no Ethernet header, so that they get no program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links_without_header: Vec<String>,
    /// Why there is no packet plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_packet_plane: Option<NoPacketPlane>,
}

/// Why there is no packet plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPacketPlane {
    /// This flag turns it off.
    Flag(&'static str),
    /// The agent is still starting.
    NotStarted,
    /// It could not be started.
    Failed {
        /// The error with its causes.
        error: String,
    },
    /// Another agent has taken it over.
    HandedOver,
}

impl fmt::Display for NoPacketPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag(flag) => flag,
            Self::NotStarted => "it has not been started yet",
            Self::Failed { error } => error,
            Self::HandedOver => "it was handed over to another agent",
        })
    }
}

impl Serialize for NoPacketPlane {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A place at a link where a program gets frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// In the driver, before the kernel makes its own copy of a frame.
    Xdp,
    /// At ingress, before routing.
    Tc,
}

impl Hook {
    /// All hooks, the fastest first.
    pub const ALL: [Self; 2] = [Self::Xdp, Self::Tc];
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        })
    }
}

/// A link with a program of the packet plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkPlane {
    /// The link's name.
    pub link: String,
    /// Where its program is.
    pub hook: Hook,
    /// Why it is there.
    pub why: HookReason,
}

/// Why a link's program is at its hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookReason {
    /// What decided which hooks are tried.
    pub choice: HookChoice,
    /// The hooks that were tried before, and refused.
    pub refused: Vec<HookRefusal>,
}

/// What decides which hooks of a link are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookChoice {
    /// `--datapath` names the only hook.
    Flag(Hook),
    /// TC only: a veth delivers what XDP sends back only if its peer has an XDP program too.
    Veth,
    /// TC only: the drivers of virtual links have no XDP.
    VirtualLink,
    /// TC only: the card takes VLAN tags out of frames, so XDP can't tell those of the link's VLANs from its own.
    HiddenVlanTags,
    /// TC only: what XDP forwards to this other link would be lost.
    NotTaken {
        /// The link whose driver takes no frames from XDP.
        by: String,
    },
    /// TC only: the driver has kept XDP when it should have ended.
    XdpKept,
    /// The fastest hook that the kernel takes.
    Fastest,
}

/// A hook that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRefusal {
    /// The hook.
    pub hook: Hook,
    /// The error with its causes.
    pub error: String,
}

impl fmt::Display for HookReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let choice = match &self.choice {
            HookChoice::Flag(hook) => Some(format!("--datapath {hook}")),
            HookChoice::Veth => Some(
                "no XDP: what it sends back arrives only if the other end of the veth pair has an XDP program too"
                    .to_owned(),
            ),
            HookChoice::VirtualLink => Some("no XDP: drivers of virtual links have none".to_owned()),
            HookChoice::HiddenVlanTags => Some(
                "no XDP: the card takes VLAN tags out of frames, so XDP can't tell frames of this link's VLANs from \
                 its own; rxvlan off (ethtool -K) would change that"
                    .to_owned(),
            ),
            HookChoice::NotTaken { by } => {
                Some(format!("no XDP: the driver of {by} takes no frames from XDP, so they would be lost"))
            }
            HookChoice::XdpKept => Some(
                "no XDP: the driver has kept it when it should have ended, so it is not tried again before the agent is \
                 started anew"
                    .to_owned(),
            ),
            HookChoice::Fastest if self.refused.is_empty() => Some("it is the fastest".to_owned()),
            HookChoice::Fastest => None,
        };
        let refused = self.refused.iter().map(|HookRefusal { hook, error }| format!("no {hook}: {error}"));
        f.write_str(&choice.into_iter().chain(refused).collect::<Vec<_>>().join("; "))
    }
}

impl Serialize for HookReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_explained_by_what_was_refused_or_by_its_speed() {
        let refused = vec![HookRefusal { hook: Hook::Xdp, error: "too large an MTU".to_owned() }];
        let why = |choice, refused| HookReason { choice, refused }.to_string();
        assert_eq!(why(HookChoice::Fastest, Vec::new()), "it is the fastest");
        assert_eq!(why(HookChoice::Fastest, refused), "no xdp: too large an MTU");
        assert_eq!(why(HookChoice::Flag(Hook::Tc), Vec::new()), "--datapath tc");
        let not_taken = HookChoice::NotTaken { by: "eth1".to_owned() };
        assert!(why(not_taken, Vec::new()).contains("the driver of eth1 takes no frames"));
    }
}
