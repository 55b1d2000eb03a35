// SPDX-License-Identifier: Apache-2.0
//! Questions about routes: where packets to an address go, and through which hosts any route leads.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::connection::Connection;
use super::dump::Kind;
use crate::model::Mac;

/// Addresses reserved for documentation (RFC 5737, RFC 3849). No network has a
/// route to them, so the kernel answers with the default route. Nothing is ever
/// sent to them.
const UNROUTED: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(203, 0, 113, 0), Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0));

/// Where packets to an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To this host itself.
    Here,
    /// Nowhere: there is no route, or the route rejects or drops them.
    Nowhere,
    /// Out of this host.
    Via(Way),
}

/// A route out of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The number of the link.
    pub(crate) ifindex: u32,
    /// The router, unless the address is on the link's segment.
    pub(crate) gateway: Option<IpAddr>,
    /// The source address that the kernel would choose for this host's own packets.
    pub(crate) source: Option<IpAddr>,
    /// The largest packet in bytes, if the route itself limits it.
    pub(crate) mtu: Option<u32>,
}

impl Connection {
    /// Where the kernel sends a packet to `address` now.
    pub(crate) async fn route(&mut self, address: IpAddr) -> io::Result<Route> {
        let mut question = RouteMessage::default();
        question.header.address_family = family_of(address);
        question.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        question.attributes = vec![RouteAttribute::Destination(address.into())];
        let answer = self.ask_or_nothing(RouteNetlinkMessage::GetRoute(question)).await?;
        let route = answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        Ok(route.map_or(Route::Nowhere, |route| route_of(&route)))
    }

    /// Whether a route to `address` is there that is not the default route.
    pub(crate) async fn has_own_route(&mut self, address: IpAddr) -> io::Result<bool> {
        let mut question = RouteMessage::default();
        question.header.address_family = family_of(address);
        question.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        // Asks for the route, not for where a packet would go.
        question.header.flags = RouteFlags::FibMatch;
        question.attributes = vec![RouteAttribute::Destination(address.into())];
        let answer = self.ask_or_nothing(RouteNetlinkMessage::GetRoute(question)).await?;
        Ok(answer.into_iter().any(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => route.header.destination_prefix_length != 0,
            _ => false,
        }))
    }

    /// The gateways of all routes, in all tables.
    pub(crate) async fn gateways(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        Ok(self.gateways_by_link().await?.into_iter().map(|(_, gateway)| gateway).collect())
    }

    /// The same with the numbers of the links by which they are reached.
    pub(crate) async fn gateways_by_link(&mut self) -> io::Result<BTreeSet<(u32, IpAddr)>> {
        let mut all = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            all.extend(self.dump(Kind::Routes, RouteNetlinkMessage::GetRoute(question)).await?.gateways);
        }
        Ok(all)
    }

    /// The default gateway on the link of number `index`, for the family of
    /// `address`, and its MAC if the kernel knows it. `None` if there is none.
    pub(crate) async fn gateway(
        &mut self,
        index: u32,
        address: IpAddr,
    ) -> io::Result<Option<(IpAddr, Option<Mac>)>> {
        let mut question = RouteMessage::default();
        let (family, unrouted) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, IpAddr::from(UNROUTED.0)),
            IpAddr::V6(_) => (AddressFamily::Inet6, IpAddr::from(UNROUTED.1)),
        };
        question.header.address_family = family;
        question.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        // Asks for the route, not for where a packet would go.
        question.header.flags = RouteFlags::FibMatch;
        question.attributes = vec![RouteAttribute::Destination(unrouted.into()), RouteAttribute::Oif(index)];
        let answer = self.ask_or_nothing(RouteNetlinkMessage::GetRoute(question)).await?;
        let gateway = answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => default_gateway(&route, index),
            _ => None,
        });
        match gateway {
            Some(gateway) => Ok(Some((gateway, self.neighbour(index, gateway).await?))),
            None => Ok(None),
        }
    }
}

fn route_of(route: &RouteMessage) -> Route {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Route::Here,
        _ => return Route::Nowhere,
    }
    let mut way = Way { ifindex: 0, gateway: None, source: None, mtu: None };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => way.ifindex = *index,
            RouteAttribute::Gateway(address) => way.gateway = ip_of(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => way.gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => way.gateway = Some((*address).into()),
            RouteAttribute::PrefSource(address) => way.source = ip_of(address),
            RouteAttribute::Metrics(metrics) => {
                way.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Route::Via(way)
}

/// The gateway, if this is a default route on the link of number `index`.
fn default_gateway(route: &RouteMessage, index: u32) -> Option<IpAddr> {
    let is_on_link = route.attributes.contains(&RouteAttribute::Oif(index));
    if route.header.destination_prefix_length != 0 || !is_on_link {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address))
        | RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(address))
        | RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
