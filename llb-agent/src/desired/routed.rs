// SPDX-License-Identifier: Apache-2.0
//! Finds Services and VIPs to which routers can't send clients, if VIPs are routed (`--announce routed`), and says why.

use std::net::IpAddr;

use super::inputs::Inputs;
use crate::model::{Announce, Mode, Problem, ProblemReason, Service, ServiceName, VIP_LINK};

/// Why the Service can't be served: it is in mode NAT, and routers may lead the packets of one connection to
/// several machines.
pub(super) fn refused(inputs: Inputs<'_>, name: &ServiceName, service: &Service) -> Option<Problem> {
    let policy = inputs.policy;
    let mode = service.terms.mode.unwrap_or(policy.mode);
    let is_nat = mode == Mode::Nat && policy.has_packet_plane && service.terms.relay_feature().is_none();
    if policy.announce != Announce::Routed || !is_nat {
        return None;
    }
    let whose = match service.terms.mode {
        Some(_) => "by its annotation llb.dev/mode",
        None => "by --mode",
    };
    let message = format!(
        "it is not served: {whose} it is in mode nat, which routed VIPs can't have, since routers may lead the packets of one \
         connection to several machines; give it the annotation llb.dev/mode: dsr, or let the operator use --mode dsr, \
         the relay (--datapath userspace), or --announce l2"
    );
    Some(Problem::of_service(name, ProblemReason::NotRoutable, message))
}

/// Leaves out VIPs in the subnet of a link device: the router there asks for them by ARP or NDP, and nobody answers.
/// False if none is left.
pub(super) fn retain_routable(
    inputs: Inputs<'_>,
    name: &ServiceName,
    vips: &mut Vec<IpAddr>,
    problems: &mut Vec<Problem>,
) -> bool {
    if inputs.policy.announce != Announce::Routed {
        return true;
    }
    vips.retain(|vip| {
        let all = inputs.facts.links.iter().flat_map(|link| link.addresses.iter().map(move |known| (link, known.net)));
        let Some((link, net)) = all.filter(|(_, net)| net.contains(vip)).max_by_key(|(_, net)| net.prefix_len()) else {
            return true;
        };
        let message = format!(
            "its VIP {vip} is not served: it is in {} of link {}, where routers ask for it by ARP or NDP and not \
             by a route to {VIP_LINK}; give the Service an address outside of the subnets of the link devices, and let the \
             operator give such a --pool, or use --announce l2",
            net.trunc(),
            link.name
        );
        problems.push(Problem::of_service(name, ProblemReason::NotRoutable, message));
        false
    });
    !vips.is_empty()
}
