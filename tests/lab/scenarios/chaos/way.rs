// SPDX-License-Identifier: Apache-2.0
//! What is under test: a plane and a mode, and which events are fair for it.

use std::net::IpAddr;

use llb_tests::chaos::Event;
use llb_tests::environment;

use crate::plane::Plane;
use crate::setup::Setup;

/// The kind of a plane: what its connections depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PacketNat,
    PacketDsr,
    Relay,
}

/// A plane and mode under test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) plane: Plane,
    pub(super) is_dsr: bool,
}

impl Way {
    fn kind(self) -> Kind {
        match self.plane {
            Plane::Userspace | Plane::Sockmap => Kind::Relay,
            Plane::Tc | Plane::TcClsact | Plane::XdpNative | Plane::XdpGeneric if self.is_dsr => {
                Kind::PacketDsr
            }
            Plane::Tc | Plane::TcClsact | Plane::XdpNative | Plane::XdpGeneric => Kind::PacketNat,
        }
    }

    /// Why an event can't happen to this way, or is no fair one; `None` if it is.
    fn spared(self, event: Event) -> Option<&'static str> {
        match (event, self.kind(), self.plane) {
            (Event::AgentKilled, Kind::Relay, _) => Some("connections of the relay are the agent's own"),
            (Event::LinkReplaced, _, Plane::XdpNative | Plane::XdpGeneric) => {
                Some("a new veth pair lacks what the lab prepares for XDP")
            }
            (Event::LinkReplaced, Kind::PacketNat, _) => Some(
                "until the new link has its program, the kernel resets what backends send to its address",
            ),
            _ => None,
        }
    }

    /// Whether connections can be relayed in a run with these events.
    pub(super) fn may_relay(self, events: &[Event]) -> bool {
        self.kind() == Kind::Relay || events.contains(&Event::RouteChangesLink)
    }

    /// The events of a run. Says which ones are left out. While a route leads to another link, the Service is relayed, and
    /// connections that begin then die with the agent. So a run has one of the two, by its seed.
    pub(super) fn events(self, seed: u64) -> Vec<Event> {
        let [left_out, kept] = match seed % 2 {
            0 => [Event::AgentKilled, Event::RouteChangesLink],
            _ => [Event::RouteChangesLink, Event::AgentKilled],
        };
        let named = environment::chaos_events().map(|names| {
            let named = |name: &str| Event::named(name).unwrap_or_else(|| panic!("there is no event {name}"));
            names.split(',').map(named).collect::<Vec<_>>()
        });
        let is_possible = |event: &Event| {
            let reason = self.spared(*event);
            reason.inspect(|reason| println!("without {event:?}: {reason}")).is_none()
        };
        let all = named.as_deref().unwrap_or(&Event::ALL).iter().copied();
        let mut events: Vec<Event> = all.filter(is_possible).collect();
        if self.kind() != Kind::Relay && events.contains(&kept) && events.contains(&left_out) {
            println!("without {left_out:?}: this run has {kept:?}");
            events.retain(|event| *event != left_out);
        }
        events
    }
}

/// The VIPs, one of each family.
pub(super) fn vips(setup: &Setup) -> [IpAddr; 2] {
    [setup.vip(), setup.vip_v6()]
}
