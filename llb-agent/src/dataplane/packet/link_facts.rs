// SPDX-License-Identifier: Apache-2.0
//! What the packet plane knows about a link before it puts a program there.

use std::io;

use llb_common::address::Mac;
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::config::XdpMode;
use crate::netlink::{Connection, LinkDevice};

/// A link as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkFacts {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) mac: Mac,
    /// Size of the largest IP packet, in bytes.
    pub(super) mtu: u32,
    /// Its frames begin with an Ethernet header, which the programs need.
    pub(super) is_ethernet: bool,
    /// The kind of a virtual link: `veth`, `vlan`, `bond` ... `None` for hardware.
    pub(super) kind: Option<String>,
    /// Interface index of the link on which this virtual one is built.
    pub(super) below: Option<u32>,
    /// There are VLAN links on it.
    pub(super) has_vlans: bool,
    /// Id and mode of the XDP program that is attached now.
    pub(super) xdp: Option<(u32, XdpMode)>,
}

impl LinkFacts {
    /// Reads the facts of all links.
    ///
    /// # Errors
    /// The kernel does not list its links.
    pub(super) async fn read(connection: &mut Connection) -> io::Result<Vec<Self>> {
        let links = connection.links().await?;
        let is_vlan = |link: &&LinkDevice| link.kind.as_deref() == Some("vlan");
        let with_vlans: Vec<u32> = links.iter().filter(is_vlan).filter_map(|vlan| vlan.below).collect();
        let facts = links
            .into_iter()
            .map(|link| Self { has_vlans: with_vlans.contains(&link.ifindex), ..Self::from(link) });
        Ok(facts.collect())
    }
}

impl From<LinkDevice> for LinkFacts {
    fn from(link: LinkDevice) -> Self {
        let mode = |driver| if driver { XdpMode::Native } else { XdpMode::Generic };
        Self {
            mac: link.mac.map_or(Mac::new([0; 6]), |mac| Mac::new(mac.0)),
            name: link.name,
            ifindex: link.ifindex,
            mtu: link.mtu,
            is_ethernet: link.is_ethernet,
            // The other end of a veth is named there, too.
            below: link.below.filter(|_| link.kind.as_deref() != Some("veth")),
            kind: link.kind,
            has_vlans: false,
            xdp: link.xdp.map(|(program, is_in_driver)| (program, mode(is_in_driver))),
        }
    }
}

/// The number of a link; `None` if there is none of this name.
pub(super) fn index_of(link: &str) -> Option<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    netdevice::name_to_index(socket, link).ok()
}
