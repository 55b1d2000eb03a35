// SPDX-License-Identifier: Apache-2.0
//! The events, as data: which part of the network each one changes, and how long it lasts. After that, what it
//! changed is put back, so the network is whole again within seconds.

use std::ops::RangeInclusive;

/// Something that happens to a network. TCP survives each of them by plain routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The balancer's table of neighbours is flushed.
    BalancerForgetsNeighbours,
    /// The client's table of neighbours is flushed.
    ClientForgetsNeighbours,
    /// A node's table of neighbours is flushed.
    NodeForgetsNeighbours,
    /// The gateway's table of neighbours is flushed.
    GatewayForgetsNeighbours,
    /// The balancer's link has no carrier for a moment.
    BalancerLosesCarrier,
    /// The client's link has no carrier for a moment.
    ClientLosesCarrier,
    /// The link of one node has no carrier for seconds.
    NodeLosesCarrier,
    /// The links of all nodes, and of the gateway to those behind it, have no carrier for seconds.
    AllNodesLoseCarrier,
    /// The gateway is away for seconds.
    GatewayAway,
    /// Somebody removes the VIPs from the balancer's link. llb puts them back.
    VipsRemoved,
    /// The balancer's own addresses leave its link and return, as with DHCP or networkd.
    OwnAddressesAway,
    /// A node gets another MAC address for a while, which nobody announces.
    NodeChangesMac,
    /// The gateway gets another MAC address for a while, which nobody announces.
    GatewayChangesMac,
    /// The link behind the gateway gets a smaller MTU.
    FarLinkIsNarrow,
    /// The balancer's link gets a smaller MTU.
    BalancerLinkIsNarrow,
    /// The route to the backends behind the gateway leads through another gateway for a while.
    RouteChangesGateway,
    /// The route to the backends behind the gateway leads through another link of the balancer for a while.
    RouteChangesLink,
    /// The balancer prefers another of its addresses as source for a while. It keeps all of them.
    SourceChanges,
    /// The agent is killed; a new one starts a moment later.
    AgentKilled,
    /// A new agent takes over from the running one.
    AgentHandsOver,
    /// One frame in five is lost for a moment.
    FramesLost,
    /// One frame in five arrives twice for a moment.
    FramesDoubled,
    /// The balancer's link is deleted and created again.
    LinkReplaced,
}

/// A part of the network. Two events never change one part at the same time, because the end of one would undo
/// the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Link and addresses of the balancer.
    BalancerLink,
    /// The balancer's routes.
    BalancerRoutes,
    /// The client's link.
    ClientLink,
    /// The links of nodes.
    NodeLinks,
    /// The gateway's link.
    GatewayLink,
    /// The link behind the gateway.
    FarLink,
    /// The agent.
    Agent,
    /// The bridge that joins all hosts.
    Segment,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 23] = [
        Self::BalancerForgetsNeighbours,
        Self::ClientForgetsNeighbours,
        Self::NodeForgetsNeighbours,
        Self::GatewayForgetsNeighbours,
        Self::BalancerLosesCarrier,
        Self::ClientLosesCarrier,
        Self::NodeLosesCarrier,
        Self::AllNodesLoseCarrier,
        Self::GatewayAway,
        Self::VipsRemoved,
        Self::OwnAddressesAway,
        Self::NodeChangesMac,
        Self::GatewayChangesMac,
        Self::FarLinkIsNarrow,
        Self::BalancerLinkIsNarrow,
        Self::RouteChangesGateway,
        Self::RouteChangesLink,
        Self::SourceChanges,
        Self::AgentKilled,
        Self::AgentHandsOver,
        Self::FramesLost,
        Self::FramesDoubled,
        Self::LinkReplaced,
    ];

    /// The event with this name, as [`Event`] is printed.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| format!("{event:?}") == name)
    }

    /// The parts that it changes, and puts back in the end.
    pub fn parts(self) -> &'static [Part] {
        match self {
            // Nothing is put back, so these go together with anything.
            Self::BalancerForgetsNeighbours
            | Self::ClientForgetsNeighbours
            | Self::NodeForgetsNeighbours
            | Self::GatewayForgetsNeighbours => &[],
            Self::BalancerLosesCarrier | Self::VipsRemoved | Self::BalancerLinkIsNarrow => {
                &[Part::BalancerLink]
            }
            Self::OwnAddressesAway | Self::LinkReplaced => &[Part::BalancerLink, Part::BalancerRoutes],
            Self::ClientLosesCarrier => &[Part::ClientLink],
            Self::NodeLosesCarrier | Self::NodeChangesMac => &[Part::NodeLinks],
            Self::AllNodesLoseCarrier => &[Part::NodeLinks, Part::GatewayLink],
            Self::GatewayAway | Self::GatewayChangesMac => &[Part::GatewayLink],
            Self::FarLinkIsNarrow => &[Part::FarLink],
            Self::RouteChangesGateway | Self::RouteChangesLink | Self::SourceChanges => {
                &[Part::BalancerRoutes]
            }
            Self::AgentKilled | Self::AgentHandsOver => &[Part::Agent],
            Self::FramesLost | Self::FramesDoubled => &[Part::Segment],
        }
    }

    /// How long it lasts, in milliseconds: from its beginning until what it changed is put back.
    pub fn lasts(self) -> RangeInclusive<u64> {
        match self {
            Self::BalancerForgetsNeighbours
            | Self::ClientForgetsNeighbours
            | Self::NodeForgetsNeighbours
            | Self::GatewayForgetsNeighbours
            | Self::LinkReplaced => 0..=0,
            Self::BalancerLosesCarrier | Self::ClientLosesCarrier | Self::OwnAddressesAway => 200..=2000,
            Self::NodeLosesCarrier | Self::AllNodesLoseCarrier => 1000..=6000,
            Self::GatewayAway | Self::FarLinkIsNarrow | Self::BalancerLinkIsNarrow => 1000..=4000,
            Self::NodeChangesMac | Self::GatewayChangesMac => 2000..=6000,
            Self::RouteChangesGateway | Self::RouteChangesLink | Self::SourceChanges => 2000..=12_000,
            Self::AgentKilled => 200..=2000,
            // The next agent must find one that has taken over.
            Self::AgentHandsOver => 5000..=6000,
            // Nobody else puts the address back.
            Self::VipsRemoved => 1000..=2000,
            Self::FramesLost | Self::FramesDoubled => 500..=1500,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_lasts_says_what_it_changes() {
        for event in Event::ALL {
            assert!(!event.parts().is_empty() || *event.lasts().end() == 0, "{event:?}");
        }
    }

    #[test]
    fn each_event_is_found_by_its_name() {
        for event in Event::ALL {
            assert_eq!(Event::named(&format!("{event:?}")), Some(event));
        }
        assert_eq!(Event::named("Nothing"), None);
    }
}
