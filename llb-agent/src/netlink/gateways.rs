// SPDX-License-Identifier: Apache-2.0
//! The gateways of a route, with the numbers of their links. Pure: bytes in, numbers and addresses out.
//!
//! A machine can have a million routes, and new kinds of routes bring attributes that the
//! decoder does not know. So routes of a list are not decoded, and only these are kept.

use std::net::IpAddr;

use rtnetlink::packet_core::{NetlinkBuffer, NlasIterator};

pub(super) const RTM_NEWROUTE: u16 = 24;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;

/// `struct rtnexthop` without its attributes.
const HOP: usize = 8;

/// The gateways of the route that `message` describes. Malformed parts have none. The number of a link is 0 if the
/// route does not say it.
pub(super) fn gateways_of(message: &[u8]) -> Vec<(u32, IpAddr)> {
    const ATTRIBUTES: usize = 16 + 12; // After struct nlmsghdr and struct rtmsg.
    if NetlinkBuffer::new(message).message_type() != RTM_NEWROUTE || message.len() < ATTRIBUTES {
        return Vec::new();
    }
    let family = u16::from(message[16]);
    let attributes = &message[ATTRIBUTES..];
    let link = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == RTA_OIF);
    let link = link.and_then(|link| link.value().try_into().ok()).map_or(0, u32::from_ne_bytes);
    let mut gateways = of_attributes(family, link, attributes);
    for attribute in NlasIterator::new(attributes).flatten() {
        if attribute.kind() == RTA_MULTIPATH {
            gateways.extend(of_hops(family, attribute.value()));
        }
    }
    gateways
}

fn of_hops(family: u16, mut hops: &[u8]) -> Vec<(u32, IpAddr)> {
    let mut gateways = Vec::new();
    while let [first, second, _, _, link @ ..] = hops
        && let Some(link) = link.first_chunk()
    {
        let length = usize::from(u16::from_ne_bytes([*first, *second]));
        let Some(hop) = hops.get(HOP..length) else { break };
        gateways.extend(of_attributes(family, u32::from_ne_bytes(*link), hop));
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    gateways
}

fn of_attributes(family: u16, link: u32, attributes: &[u8]) -> Vec<(u32, IpAddr)> {
    let found = NlasIterator::new(attributes).flatten().filter_map(|attribute| {
        match (attribute.kind(), attribute.value()) {
            (RTA_GATEWAY, value) => address(family, value),
            (RTA_VIA, [first, second, value @ ..]) => address(u16::from_ne_bytes([*first, *second]), value),
            _ => None,
        }
    });
    found.map(|gateway| (link, gateway)).collect()
}

fn address(family: u16, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
