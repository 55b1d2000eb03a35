// SPDX-License-Identifier: Apache-2.0
//! Questions about addresses.

use std::io;

use ipnet::IpNet;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::connection::Connection;
use super::dump::Kind;

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnAddress {
    /// The number of its link.
    pub(crate) ifindex: u32,
    pub(crate) net: IpNet,
    /// It is not about to go: neither temporary (RFC 8981) nor deprecated, and not tentative any more.
    pub(crate) is_lasting: bool,
}

impl Connection {
    /// As [`Connection::addresses`], without what only their owner has to know.
    pub(crate) async fn own_addresses(&mut self) -> io::Result<Vec<OwnAddress>> {
        Ok(self.addresses().await?.iter().filter_map(own_address).collect())
    }

    /// All addresses of all links, in the kernel's order.
    pub(crate) async fn addresses(&mut self) -> io::Result<Vec<AddressMessage>> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answer = self.dump(Kind::Addresses, question).await?.messages;
        let addresses = answer.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        });
        Ok(addresses.collect())
    }
}

fn own_address(message: &AddressMessage) -> Option<OwnAddress> {
    let (mut flags, mut local, mut address) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Flags(all) => flags = Some(*all),
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Address(found) => address = Some(*found),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    // Without the attribute, the eight flags in the header count.
    let flags = flags.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()));
    let mut passing = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    if net.addr().is_ipv6() {
        // In IPv6 this bit means temporary.
        passing |= AddressFlags::Secondary;
    }
    Some(OwnAddress { ifindex: message.header.index, net, is_lasting: !flags.intersects(passing) })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_temporary_or_deprecated_address_does_not_last() {
        let own = |address: &str, flags: AddressFlags| {
            let mut message = AddressMessage::default();
            message.header.prefix_len = 24;
            let address: IpAddr = address.parse().unwrap();
            message.attributes = vec![AddressAttribute::Address(address), AddressAttribute::Flags(flags)];
            own_address(&message).unwrap().is_lasting
        };
        assert!(own("2001:db8::5", AddressFlags::Permanent));
        assert!(!own("2001:db8::5", AddressFlags::Secondary));
        assert!(!own("2001:db8::5", AddressFlags::Deprecated | AddressFlags::Permanent));
        assert!(own("192.0.2.5", AddressFlags::Secondary), "in IPv4, only a second one of its subnet");
    }
}
