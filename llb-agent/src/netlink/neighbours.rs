// SPDX-License-Identifier: Apache-2.0
//! Questions about neighbours, and requests that make the kernel look for them.

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::connection::Connection;
use super::dump::Kind;
use crate::model::Mac;

/// `NDA_PROTOCOL` of the neighbours that llb keeps: the letter l, as for its addresses. Other numbers are those of
/// routing daemons (linux/rtnetlink.h).
const KEEPER: RouteProtocol = RouteProtocol::Other(0x6c);

/// A neighbour: another host on the segment of a link, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// The number of its link.
    pub(crate) ifindex: u32,
    pub(crate) address: IpAddr,
    /// `None` while the kernel looks for it, and if it did not answer.
    pub(crate) mac: Option<Mac>,
    /// The kernel learned the MAC from an answer, and is not checking it right now. No other program looks after
    /// this neighbour.
    pub(crate) is_learned: bool,
    /// llb keeps it, see [`Connection::keep_neighbour`].
    pub(crate) is_kept: bool,
    /// The kernel asked it, and it did not answer.
    pub(crate) is_silent: bool,
}

impl Connection {
    /// All neighbours that the kernel knows or looks for.
    pub(crate) async fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let question = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answer = self.dump(Kind::Neighbours, question).await?.messages;
        let neighbours = answer.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => neighbour_of(&neighbour),
            _ => None,
        });
        Ok(neighbours.collect())
    }

    /// Makes the kernel treat a neighbour as if it had a packet for it, and keep it. The
    /// kernel looks for a neighbour that it does not know, and checks one that it has not
    /// heard from for a while. What is kept is not forgotten when the table is full, and
    /// takes no room in it (`gc_thresh3`): so the kernel treats entries that are "externally
    /// learned". Otherwise they are like all others. Not for an entry that is configured.
    pub(crate) async fn keep_neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut message = kept(neighbour_message(ifindex, address));
        message.header.flags |= NeighbourFlags::Use;
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE).await
    }

    /// Lets the kernel forget a neighbour that llb has kept, when it likes.
    pub(crate) async fn release_neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut message = neighbour_message(ifindex, address);
        message.header.flags = NeighbourFlags::Use;
        gone_is_well(self.change(RouteNetlinkMessage::NewNeighbour(message), 0).await)
    }

    /// Makes the kernel check now that a neighbour that it has learned still
    /// answers. A neighbour that does not answer becomes unknown after
    /// `ucast_solicit` times `retrans_time_ms` (`net.ipv4.neigh`): 3 s by default. From
    /// then on it is kept, see [`Connection::keep_neighbour`].
    pub(crate) async fn probe_neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut message = kept(neighbour_message(ifindex, address));
        message.header.state = NeighbourState::Probe;
        // Without NLM_F_REPLACE, by which the kernel would forget that an IPv6 neighbour is a router.
        gone_is_well(self.change(RouteNetlinkMessage::NewNeighbour(message), 0).await)
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
        // A neighbour that the kernel still looks for has a MAC of zeros.
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

fn kept(mut message: NeighbourMessage) -> NeighbourMessage {
    message.header.flags = NeighbourFlags::ExtLearned;
    message.attributes.push(NeighbourAttribute::Protocol(KEEPER));
    message
}

/// That the kernel refuses to change a neighbour means that it has become unknown meanwhile.
fn gone_is_well(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error().is_some() => Ok(()),
        result => result,
    }
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
    let is_of_a_program = message.header.flags.contains(NeighbourFlags::ExtLearned);
    let is_kept = is_of_a_program && message.attributes.contains(&NeighbourAttribute::Protocol(KEEPER));
    let has_answered = matches!(
        message.header.state,
        NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay
    );
    let is_learned = has_answered && is_kept == is_of_a_program;
    let is_silent = message.header.state == NeighbourState::Failed;
    let ifindex = message.header.ifindex;
    Some(Neighbour { ifindex, address: address?, mac, is_learned, is_kept, is_silent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_programs_look_after_is_not_llbs_to_probe() {
        let message = |flags, protocol: Option<u8>| {
            let mut message = neighbour_message(7, [192, 0, 2, 31].into());
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2; 6]));
            message.attributes.extend(protocol.map(|number| NeighbourAttribute::Protocol(number.into())));
            (message.header.flags, message.header.state) = (flags, NeighbourState::Stale);
            let neighbour = neighbour_of(&message).unwrap();
            (neighbour.is_learned, neighbour.is_kept)
        };
        let (plain, external) = (NeighbourFlags::default(), NeighbourFlags::ExtLearned);
        assert_eq!(message(plain, None), (true, false));
        assert_eq!(message(external, Some(0x6c)), (true, true));
        assert_eq!(message(plain, Some(0x6c)), (true, false), "it was released");
        assert_eq!(message(external, None), (false, false));
        assert_eq!(message(external, Some(186)), (false, false), "of a BGP daemon");
    }
}
