// SPDX-License-Identifier: Apache-2.0
//! Which plane serves a frontend, and in which mode. Pure: the answers follow from the
//! flags, from a rule and from the ways to its backends. The ladder:
//!
//! ```text
//!   flag --datapath?  ------------------ sockmap, userspace --> relay
//!   rule: does it need the relay?  --------------------- yes --> relay
//!   ways to the backends: obstacle for DSR?  no --> packet plane, dsr
//!                         obstacle for NAT?  no --> packet plane, nat
//!                                           yes --> relay
//!   maps: is a limit reached?  ------------------------- yes --> relay    (found when the maps are written)
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Datapath;
use crate::model::{Mode, NoPacketPlane, PacketObstacle, RelayFeature, Rule};

/// How packets get to the backends of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// The way to each backend's address.
    pub(super) backends: BTreeMap<IpAddr, BackendWay>,
    /// How many addresses of this machine backends would see in mode NAT, over all frontends.
    pub(super) sources: usize,
    /// How many of them the programs know at most.
    pub(super) most_sources: usize,
}

/// How packets get to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackendWay {
    /// The backend is on the segment of a link with a program.
    Direct,
    /// A router forwards them, on the segment of a link with a program.
    Router(IpAddr),
    /// They leave by a link without a program.
    OtherLink,
    /// They leave by a link without an IPv6 link-local address. The kernel sends its own questions for
    /// neighbours from that address only.
    NoLinkLocal,
    /// The address is one of this machine.
    ThisMachine,
    /// There is no route now. The backend gets nothing until there is one.
    NoRoute,
}

/// The mode in which the packet plane serves a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PacketMode {
    pub(super) mode: Mode,
    /// The rule asks for DSR; this prevents it.
    pub(super) not_dsr: Option<PacketObstacle>,
}

/// Why `datapath` leaves no packet plane; `None` if it wants one.
pub(super) fn packet_plane_off(datapath: Datapath) -> Option<NoPacketPlane> {
    match datapath {
        Datapath::Userspace => Some(NoPacketPlane::Flag("--datapath userspace")),
        Datapath::Sockmap => Some(NoPacketPlane::Flag("--datapath sockmap")),
        Datapath::Auto | Datapath::Xdp | Datapath::Tc => None,
    }
}

/// What `rule` asks for that only the relay can do; `None` if the packet plane can do all of it.
pub(super) fn relay_feature(rule: &Rule) -> Option<RelayFeature> {
    rule.terms.relay_feature()
}

/// The mode in which the packet plane serves `rule`: NAT where DSR is wanted but not possible.
///
/// # Errors
/// The packet plane can't serve it in any mode.
pub(super) fn packet_mode(rule: &Rule, ways: &Ways) -> Result<PacketMode, PacketObstacle> {
    let not_dsr = match rule.mode {
        Mode::Nat => None,
        Mode::Dsr => match obstacle(rule, ways, Mode::Dsr) {
            None => return Ok(PacketMode { mode: Mode::Dsr, not_dsr: None }),
            Some(obstacle) if rule.only_dsr => return Err(obstacle),
            obstacle => obstacle,
        },
    };
    match obstacle(rule, ways, Mode::Nat) {
        None => Ok(PacketMode { mode: Mode::Nat, not_dsr }),
        Some(obstacle) => Err(obstacle),
    }
}

fn obstacle(rule: &Rule, ways: &Ways, mode: Mode) -> Option<PacketObstacle> {
    let of_backend = |backend: IpAddr| match ways.backends.get(&backend)? {
        BackendWay::ThisMachine => Some(PacketObstacle::ThisMachine { backend }),
        BackendWay::OtherLink => Some(PacketObstacle::OtherLink { backend }),
        BackendWay::NoLinkLocal => Some(PacketObstacle::NoLinkLocal { backend }),
        BackendWay::Direct | BackendWay::Router(_) if mode == Mode::Dsr && !rule.to_nodes => {
            Some(PacketObstacle::NotANode { backend })
        }
        BackendWay::Router(router) if mode == Mode::Dsr => {
            Some(PacketObstacle::BehindRouter { backend, router: *router })
        }
        BackendWay::Direct | BackendWay::Router(_) | BackendWay::NoRoute => None,
    };
    let too_many = PacketObstacle::TooManySources { needed: ways.sources, most: ways.most_sources };
    let is_too_many = mode == Mode::Nat && ways.sources > ways.most_sources;
    let mut addresses = rule.backends.keys().map(|backend| backend.address.ip());
    addresses.find_map(of_backend).or_else(|| is_too_many.then_some(too_many))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::model::{Backend, Balance, ProxyProtocol, ServiceName, Terms, Weight};

    fn rule(terms: Terms) -> Rule {
        let backends = [("192.0.2.31:80", 1), ("192.0.2.32:80", 1)]
            .map(|(text, _)| (Backend { address: text.parse::<SocketAddr>().unwrap() }, Weight::MIN));
        Rule::new(ServiceName::new("a", "b"), backends.into(), terms)
    }

    #[test]
    fn the_relay_serves_what_packets_cannot_carry() {
        let needs = |terms: Terms| relay_feature(&rule(terms));
        assert_eq!(needs(Terms::default()), None);
        assert_eq!(needs(Terms { balance: Some(Balance::Maglev), ..Terms::default() }), None);
        assert_eq!(
            needs(Terms { balance: Some(Balance::LeastConnections), ..Terms::default() }),
            Some(RelayFeature::LeastConnections)
        );
        assert_eq!(
            needs(Terms { proxy_protocol: Some(ProxyProtocol::V2), ..Terms::default() }),
            Some(RelayFeature::ProxyProtocol)
        );
        assert_eq!(
            needs(Terms { max_connections: std::num::NonZeroU32::new(1), ..Terms::default() }),
            Some(RelayFeature::MaxConnections)
        );
    }

    #[test]
    fn the_mode_follows_from_the_ways_to_the_backends() {
        let [backend, router] = ["192.0.2.32", "192.0.2.1"].map(|text| text.parse::<IpAddr>().unwrap());
        let placed = |mode, to_nodes, way, sources| {
            let rule = Rule { mode, to_nodes, ..rule(Terms::default()) };
            let first = ("192.0.2.31".parse().unwrap(), BackendWay::Direct);
            let ways = Ways { backends: [first, (backend, way)].into(), sources, most_sources: 2 };
            packet_mode(&rule, &ways).map(|placed| (placed.mode, placed.not_dsr))
        };
        let first = "192.0.2.31".parse().unwrap();
        let not_a_node = Some(PacketObstacle::NotANode { backend: first });
        let behind = Some(PacketObstacle::BehindRouter { backend, router });
        let here = PacketObstacle::ThisMachine { backend };
        let other = PacketObstacle::OtherLink { backend };
        let silent = PacketObstacle::NoLinkLocal { backend };
        let many = PacketObstacle::TooManySources { needed: 3, most: 2 };
        for (mode, to_nodes, way, sources, expected) in [
            (Mode::Nat, false, BackendWay::Direct, 1, Ok((Mode::Nat, None))),
            (Mode::Nat, false, BackendWay::Router(router), 1, Ok((Mode::Nat, None))),
            (Mode::Nat, false, BackendWay::NoRoute, 1, Ok((Mode::Nat, None))),
            (Mode::Nat, false, BackendWay::ThisMachine, 1, Err(here)),
            (Mode::Nat, false, BackendWay::OtherLink, 1, Err(other)),
            (Mode::Nat, false, BackendWay::NoLinkLocal, 1, Err(silent)),
            (Mode::Dsr, true, BackendWay::NoLinkLocal, 1, Err(silent)),
            (Mode::Nat, false, BackendWay::Direct, 3, Err(many)),
            (Mode::Dsr, true, BackendWay::Direct, 3, Ok((Mode::Dsr, None))),
            (Mode::Dsr, true, BackendWay::NoRoute, 1, Ok((Mode::Dsr, None))),
            (Mode::Dsr, false, BackendWay::Direct, 1, Ok((Mode::Nat, not_a_node))),
            (Mode::Dsr, true, BackendWay::Router(router), 1, Ok((Mode::Nat, behind))),
            (Mode::Dsr, true, BackendWay::ThisMachine, 1, Err(here)),
            (Mode::Dsr, true, BackendWay::OtherLink, 1, Err(other)),
        ] {
            assert_eq!(placed(mode, to_nodes, way, sources), expected, "{mode} {to_nodes} {way:?} {sources}");
        }
    }

    #[test]
    fn a_rule_for_dsr_alone_is_relayed_where_dsr_is_not_possible() {
        let [first, second, router] =
            ["192.0.2.31", "192.0.2.32", "192.0.2.1"].map(|text| text.parse::<IpAddr>().unwrap());
        let rule = Rule { mode: Mode::Dsr, to_nodes: true, only_dsr: true, ..rule(Terms::default()) };
        let placed = |way| {
            let backends = [(first, BackendWay::Direct), (second, way)].into();
            packet_mode(&rule, &Ways { backends, sources: 1, most_sources: 2 })
        };
        assert_eq!(placed(BackendWay::Direct), Ok(PacketMode { mode: Mode::Dsr, not_dsr: None }));
        let behind = PacketObstacle::BehindRouter { backend: second, router };
        assert_eq!(placed(BackendWay::Router(router)), Err(behind));
    }
}
