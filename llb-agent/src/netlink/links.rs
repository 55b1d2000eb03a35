// SPDX-License-Identifier: Apache-2.0
//! Questions about links.

use std::collections::BTreeSet;
use std::io;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};

use super::connection::Connection;
use super::dump::Kind;
use crate::model::Mac;

/// A link of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkDevice {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) mac: Option<Mac>,
    /// Bytes of the largest IP packet.
    pub(crate) mtu: u32,
    /// Set for a virtual link: `veth`, `vlan`, `bond` ...
    pub(crate) kind: Option<String>,
    /// Its alias: a text that somebody has set.
    pub(crate) alias: Option<String>,
    /// Interface index of the link on which this virtual one is built, as a VLAN; none if that is in another network
    /// namespace.
    pub(crate) below: Option<u32>,
    /// Interface index of the link whose port it is: a bridge, a bond.
    pub(crate) master: Option<u32>,
    /// The id of its XDP program, and whether the driver runs it.
    pub(crate) xdp: Option<(u32, bool)>,
    /// It is up; it may have no carrier.
    pub(crate) is_up: bool,
    /// It is up and has a carrier.
    pub(crate) is_running: bool,
    /// Its frames begin with an Ethernet header; not so on tun, WireGuard, PPP and IP tunnels.
    pub(crate) is_ethernet: bool,
    /// Other hosts find this one by ARP or NDP; not so on loopback and tunnels.
    pub(crate) has_neighbours: bool,
}

impl LinkDevice {
    /// The MAC by which neighbours find this host, if the link has neighbours.
    pub(crate) fn neighbour_mac(&self) -> Option<Mac> {
        self.mac.filter(|_| self.has_neighbours)
    }
}

impl Connection {
    /// The link of that name; `None` if there is none.
    pub(crate) async fn link(&mut self, name: &str) -> io::Result<Option<LinkDevice>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.ask(RouteNetlinkMessage::GetLink(question)).await {
            Ok(answer) => match links_of(answer).next() {
                Some(link) => Ok(Some(link)),
                None => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer has no link")),
            },
            // ERANGE and EINVAL: no link can have such a name.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// All links of this host.
    pub(crate) async fn links(&mut self) -> io::Result<Vec<LinkDevice>> {
        let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Ok(links_of(self.dump(Kind::Links, question).await?.messages).collect())
    }

    /// The MACs of all links of this host.
    pub(crate) async fn macs(&mut self) -> io::Result<BTreeSet<Mac>> {
        Ok(self.links().await?.iter().filter_map(|link| link.mac).collect())
    }
}

fn links_of(answer: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = LinkDevice> {
    answer.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => link_of(&link),
        _ => None,
    })
}

fn link_of(message: &LinkMessage) -> Option<LinkDevice> {
    let flags = message.header.flags;
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = LinkDevice {
        name: String::new(),
        ifindex: message.header.index,
        mac: None,
        mtu: 0,
        kind: None,
        alias: None,
        below: None,
        master: None,
        xdp: None,
        is_up: flags.contains(LinkFlags::Up),
        is_running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        is_ethernet,
        has_neighbours: is_ethernet && !flags.contains(LinkFlags::Noarp),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Link(below) => link.below = Some(*below),
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
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
    if message.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_))) {
        link.below = None;
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
