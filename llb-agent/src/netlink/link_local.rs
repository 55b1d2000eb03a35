// SPDX-License-Identifier: Apache-2.0
//! The question which links have an IPv6 link-local address.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

use super::connection::Connection;

impl Connection {
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
