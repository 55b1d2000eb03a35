// SPDX-License-Identifier: Apache-2.0
//! Questions about addresses.

use std::io;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;

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
}
