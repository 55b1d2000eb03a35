// SPDX-License-Identifier: Apache-2.0
//! Questions to the kernel over rtnetlink, and whole answers. It knows
//! messages, not VIPs.
//!
//! An answer is complete or an error, never a part: taken for the whole, a
//! part would hide foreign addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures::StreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::model::Mac;

/// The kernel answers in the same system call; this only ends a wait for an
/// answer that was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A list that changed while it was read is read again this often.
const DUMP_ATTEMPTS: usize = 10;

/// Addresses that nobody has a route of his own to (RFC 5737, RFC 3849): what
/// leads there is the default route. Nothing is ever sent there.
const SOMEWHERE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(203, 0, 113, 0), Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0));

/// Where packets to an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To this machine itself.
    Here,
    /// Nowhere: there is no route, or one that says so.
    Nowhere,
    /// Out.
    Via(Way),
}

/// The way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The link.
    pub(crate) ifindex: u32,
    /// The router, if the address is not on the link's own segment.
    pub(crate) gateway: Option<IpAddr>,
    /// The address of this machine that its own packets would have.
    pub(crate) source: Option<IpAddr>,
    /// What the route itself says of the largest packet.
    pub(crate) mtu: Option<u32>,
}

/// A link of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkDevice {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) mac: Option<Mac>,
    /// Bytes of the largest IP packet.
    pub(crate) mtu: u32,
    /// Of a link that is none of hardware: `veth`, `vlan`, `bond` ...
    pub(crate) kind: Option<String>,
    /// Its XDP program, by number, and whether that is in the driver.
    pub(crate) xdp: Option<(u32, bool)>,
}

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

/// A netlink socket for questions; opened again after it failed.
#[derive(Debug)]
pub(crate) struct Connection {
    handle: Option<rtnetlink::Handle>,
}

struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    /// The list changed while it was read.
    interrupted: bool,
}

impl Connection {
    /// Opens the socket in the caller's network namespace.
    ///
    /// # Errors
    /// The kernel has no socket for us.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { handle: Some(connect()?) })
    }

    /// The link of that name; `None` if there is none.
    pub(crate) async fn link(&mut self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answer = match self.ask(RouteNetlinkMessage::GetLink(question), NLM_F_ACK).await {
            Ok(answer) => answer,
            // The last two: a name that no link can have.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let link = answer.messages.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        link.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer without a link"))
    }

    /// All addresses of all links, in the kernel's order.
    pub(crate) async fn addresses(&mut self) -> io::Result<Vec<AddressMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
            let answer = self.ask(question, NLM_F_DUMP).await?;
            if !answer.interrupted {
                let addresses = answer.messages.into_iter().filter_map(|message| match message {
                    RouteNetlinkMessage::NewAddress(address) => Some(address),
                    _ => None,
                });
                return Ok(addresses.collect());
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the addresses change faster than they can be read"))
    }

    /// The MACs of all links of this host.
    pub(crate) async fn macs(&mut self) -> io::Result<BTreeSet<Mac>> {
        let answer = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP).await?;
        let attributes = answer.messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link.attributes),
            _ => None,
        });
        let macs = attributes.flatten().filter_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => bytes.try_into().ok().map(Mac),
            _ => None,
        });
        Ok(macs.collect())
    }

    /// The default gateway of the link of this number, in the family of
    /// `address`, and its MAC if it is known; `None` without such a gateway.
    pub(crate) async fn gateway(
        &mut self,
        index: u32,
        address: IpAddr,
    ) -> io::Result<Option<(IpAddr, Option<Mac>)>> {
        let mut question = RouteMessage::default();
        let (family, somewhere) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, IpAddr::from(SOMEWHERE.0)),
            IpAddr::V6(_) => (AddressFamily::Inet6, IpAddr::from(SOMEWHERE.1)),
        };
        question.header.address_family = family;
        question.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        // The route itself, not what a packet would get.
        question.header.flags = RouteFlags::FibMatch;
        question.attributes = vec![RouteAttribute::Destination(somewhere.into()), RouteAttribute::Oif(index)];
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

    /// All links of this host.
    pub(crate) async fn links(&mut self) -> io::Result<Vec<LinkDevice>> {
        let answer = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP).await?;
        let links = answer.messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => link_of(&link),
            _ => None,
        });
        Ok(links.collect())
    }

    /// The way that a packet to `address` takes now.
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

    /// All neighbours that the kernel knows, or looks for.
    pub(crate) async fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let question = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answer = self.ask(question, NLM_F_DUMP).await?;
        let neighbours = answer.messages.into_iter().filter_map(|message| match message {
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
    async fn neighbour(&mut self, index: u32, address: IpAddr) -> io::Result<Option<Mac>> {
        let mut question = NeighbourMessage::default();
        question.header.ifindex = index;
        let destination = match address {
            IpAddr::V4(address) => {
                question.header.family = AddressFamily::Inet;
                NeighbourAddress::Inet(address)
            }
            IpAddr::V6(address) => {
                question.header.family = AddressFamily::Inet6;
                NeighbourAddress::Inet6(address)
            }
        };
        question.attributes = vec![NeighbourAttribute::Destination(destination)];
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

    /// Carries out `change`; `flags` are its NLM_F_ bits beyond REQUEST and ACK.
    pub(crate) async fn change(&mut self, change: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(change, NLM_F_ACK | flags).await.map(|_| ())
    }

    /// The answer to a look-up; empty where the kernel says that there is none.
    async fn ask_or_nothing(
        &mut self,
        question: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        match self.ask(question, NLM_F_ACK).await {
            Ok(answer) => Ok(answer.messages),
            // The kernel's word, whichever; a broken connection has no number.
            Err(error) if error.raw_os_error().is_some() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn ask(&mut self, question: RouteNetlinkMessage, flags: u16) -> io::Result<Answer> {
        let handle = match &mut self.handle {
            Some(handle) => handle,
            closed => closed.insert(connect()?),
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange(handle, question, flags)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if matches!(&answer, Err(error) if error.raw_os_error().is_none()) {
            // Not the kernel's word, so the connection is in doubt.
            self.handle = None;
        }
        answer
    }
}

fn link_of(message: &LinkMessage) -> Option<LinkDevice> {
    let mut link = LinkDevice {
        name: String::new(),
        ifindex: message.header.index,
        mac: None,
        mtu: 0,
        kind: None,
        xdp: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(xdp) => link.xdp = xdp_of(xdp),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn xdp_of(attributes: &[LinkXdp]) -> Option<(u32, bool)> {
    let is_in_driver = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(true),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(false),
        _ => None,
    })?;
    let program = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    })?;
    Some((program, is_in_driver))
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
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

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn neighbour_message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    message.header.family = family_of(address);
    message.attributes = vec![NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    })];
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

/// The gateway of a default route that leaves by the link of this number.
fn default_gateway(route: &RouteMessage, index: u32) -> Option<IpAddr> {
    let leaves_here = route.attributes.contains(&RouteAttribute::Oif(index));
    if route.header.destination_prefix_length != 0 || !leaves_here {
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

fn connect() -> io::Result<rtnetlink::Handle> {
    let (mut connection, handle, _) = rtnetlink::new_connection()?;
    // The end of each answer is shown, or a closed connection looks like one.
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    tokio::spawn(connection);
    Ok(handle)
}

async fn exchange(
    handle: &mut rtnetlink::Handle,
    question: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<Answer> {
    let mut request = NetlinkMessage::from(question);
    request.header.flags = NLM_F_REQUEST | flags;
    let mut stream = handle.request(request).map_err(io::Error::other)?;
    let mut answer = Answer { messages: Vec::new(), interrupted: false };
    while let Some(message) = stream.next().await {
        answer.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => answer.messages.push(inner),
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answer),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(done) if done.code == 0 => return Ok(answer),
            NetlinkPayload::Done(done) => return Err(io::Error::from_raw_os_error(done.code.abs())),
            _ => break,
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off"))
}
