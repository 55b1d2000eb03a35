// SPDX-License-Identifier: Apache-2.0
//! Questions about neighbours, and requests that make the kernel look for them.

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::connection::Connection;
use super::dump::Kind;
use crate::model::Mac;

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// Its link.
    pub(crate) ifindex: u32,
    /// Its address.
    pub(crate) address: IpAddr,
    /// Its MAC, unless it is being looked for or did not answer.
    pub(crate) mac: Option<Mac>,
    /// Whether the kernel has found it by asking, and is not just asking again.
    pub(crate) is_learned: bool,
}

impl Connection {
    /// All neighbours that the kernel knows, or looks for.
    pub(crate) async fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let question = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answer = self.dump(Kind::Neighbours, question).await?;
        let neighbours = answer.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => neighbour_of(&neighbour),
            _ => None,
        });
        Ok(neighbours.collect())
    }

    /// Makes the kernel use a neighbour as if it had a packet for it: it looks
    /// for one that it does not know, and asks one that it has not heard of for
    /// a while whether it is still there.
    pub(crate) async fn use_neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut message = neighbour_message(ifindex, address);
        message.header.flags = NeighbourFlags::Use;
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE).await
    }

    /// Makes the kernel ask a neighbour that it has learned whether it is still
    /// there, now. Without an answer it is unknown after some seconds
    /// (`ucast_solicit` times `retrans_time_ms` of `net.ipv4.neigh`: 3 s).
    pub(crate) async fn probe_neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut message = neighbour_message(ifindex, address);
        message.header.state = NeighbourState::Probe;
        // Not NLM_F_REPLACE, which would forget that an IPv6 neighbour is a router.
        match self.change(RouteNetlinkMessage::NewNeighbour(message), 0).await {
            // The kernel's word: it has become unknown meanwhile.
            Err(error) if error.raw_os_error().is_some() => Ok(()),
            result => result,
        }
    }

    /// The MAC of a neighbour, if the kernel knows it.
    pub(super) async fn neighbour(&mut self, index: u32, address: IpAddr) -> io::Result<Option<Mac>> {
        let question = neighbour_message(index, address);
        let answer = self.ask_or_nothing(RouteNetlinkMessage::GetNeighbour(question)).await?;
        let attributes = answer.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour.attributes),
            _ => None,
        });
        let mut macs = attributes.flatten().filter_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.try_into().ok().map(Mac),
            _ => None,
        });
        // A gateway that is being looked for has a MAC of zeros.
        Ok(macs.next().filter(|mac| mac.0 != [0; 6]))
    }
}

fn neighbour_message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    message
}

fn neighbour_of(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some((*found).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some((*found).into());
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    let is_unknown = matches!(
        message.header.state,
        NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None
    );
    let mac = mac.filter(|mac| !is_unknown && mac.0 != [0; 6]);
    let is_learned = matches!(
        message.header.state,
        NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay
    );
    Some(Neighbour { ifindex: message.header.ifindex, address: address?, mac, is_learned })
}
