// SPDX-License-Identifier: Apache-2.0
//! The gateways of a route. Pure: bytes in, addresses out.
//!
//! A machine can have a million routes, and new kinds of routes bring attributes that the
//! decoder does not know. So routes of a list are not decoded, and only these are kept.

use std::net::IpAddr;

use rtnetlink::packet_core::{NetlinkBuffer, NlasIterator};

pub(super) const RTM_NEWROUTE: u16 = 24;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;

/// `struct rtnexthop` without its attributes.
const HOP: usize = 8;

/// The gateways of the route that `message` describes. Malformed parts have none.
pub(super) fn gateways_of(message: &[u8]) -> Vec<IpAddr> {
    const ATTRIBUTES: usize = 16 + 12; // After struct nlmsghdr and struct rtmsg.
    if NetlinkBuffer::new(message).message_type() != RTM_NEWROUTE || message.len() < ATTRIBUTES {
        return Vec::new();
    }
    let family = u16::from(message[16]);
    let mut gateways = of_attributes(family, &message[ATTRIBUTES..]);
    for attribute in NlasIterator::new(&message[ATTRIBUTES..]).flatten() {
        if attribute.kind() == RTA_MULTIPATH {
            gateways.extend(of_hops(family, attribute.value()));
        }
    }
    gateways
}

fn of_hops(family: u16, mut hops: &[u8]) -> Vec<IpAddr> {
    let mut gateways = Vec::new();
    while let [first, second, ..] = hops {
        let length = usize::from(u16::from_ne_bytes([*first, *second]));
        let Some(hop) = hops.get(HOP..length) else { break };
        gateways.extend(of_attributes(family, hop));
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    gateways
}

fn of_attributes(family: u16, attributes: &[u8]) -> Vec<IpAddr> {
    let found = NlasIterator::new(attributes).flatten().filter_map(|attribute| {
        match (attribute.kind(), attribute.value()) {
            (RTA_GATEWAY, value) => address(family, value),
            (RTA_VIA, [first, second, value @ ..]) => address(u16::from_ne_bytes([*first, *second]), value),
            _ => None,
        }
    });
    found.collect()
}

fn address(family: u16, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
