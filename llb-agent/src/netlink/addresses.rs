// SPDX-License-Identifier: Apache-2.0
//! Questions about addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

use super::connection::Connection;
use super::dump::Kind;

impl Connection {
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

    /// The numbers of the links that have an IPv6 link-local address, also one that is still being checked.
    pub(crate) async fn links_with_link_local(&mut self) -> io::Result<BTreeSet<u32>> {
        let is_link_local = |message: &AddressMessage| {
            message.attributes.iter().any(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V6(address)) => address.is_unicast_link_local(),
                _ => false,
            })
        };
        let all = self.addresses().await?;
        Ok(all.iter().filter(|message| is_link_local(message)).map(|message| message.header.index).collect())
    }
}
