// SPDX-License-Identifier: Apache-2.0
//! Wakes the reconciler when the configured links or their addresses change. It
//! does not say what changed: the reconciler reads everything again.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use tokio::sync::Notify;

use crate::error_chain::ErrorChain;
use crate::netlink::Connection;

/// The pause before a failed subscription is tried again. Until then, changes are
/// only noticed when something else makes the reconciler read.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_secs(5);

/// The kernel's multicast messages.
pub(super) type Messages = BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

/// Subscribes to all changes of links and addresses.
///
/// # Errors
/// The kernel does not provide a netlink socket.
pub(super) fn subscribe() -> io::Result<Messages> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    Ok(messages.map(|(message, _)| message).boxed())
}

/// Notifies `changed` of each message about one of `links`, until it is aborted.
pub(super) async fn run(links: Vec<String>, mut messages: Messages, changed: Arc<Notify>) {
    let mut watched = Watched::read(links).await;
    loop {
        while let Some(message) = messages.next().await {
            if watched.concerns(&message.payload) {
                changed.notify_one();
            }
        }
        messages = loop {
            tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
            match subscribe() {
                Ok(messages) => break messages,
                Err(error) => tracing::warn!(
                    error = %ErrorChain(&error),
                    "cannot subscribe to changes of links and addresses, so they are noticed late"
                ),
            }
        };
        watched = Watched::read(watched.names).await;
        changed.notify_one();
    }
}

/// The configured links, and the numbers of those that exist. The number is
/// needed because a message about an address has no name, and a link that is
/// renamed keeps its number.
#[derive(Debug)]
struct Watched {
    names: Vec<String>,
    indexes: BTreeSet<u32>,
}

impl Watched {
    async fn read(names: Vec<String>) -> Self {
        let mut indexes = BTreeSet::new();
        if let Ok(mut connection) = Connection::open() {
            for name in &names {
                // The number of a link that cannot be read now comes with its next message.
                if let Ok(Some(link)) = connection.link(name).await {
                    indexes.insert(link.ifindex);
                }
            }
        }
        Self { names, indexes }
    }

    fn concerns(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                if self.has_name_of(link) {
                    self.indexes.insert(link.header.index);
                    true
                } else {
                    self.indexes.remove(&link.header.index)
                }
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                self.indexes.remove(&link.header.index)
            }
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
            ) => self.indexes.contains(&address.header.index),
            // Messages were lost, and any of them could be about these links.
            NetlinkPayload::Overrun(_) => true,
            _ => false,
        }
    }

    fn has_name_of(&self, link: &LinkMessage) -> bool {
        link.attributes.iter().any(
            |attribute| matches!(attribute, LinkAttribute::IfName(name) if self.names.iter().any(|known| known == name)),
        )
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::AddressMessage;

    use super::*;

    fn link(index: u32, name: &str) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message
    }

    fn new_link(index: u32, name: &str) -> NetlinkPayload<RouteNetlinkMessage> {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link(index, name)))
    }

    fn new_address(index: u32) -> NetlinkPayload<RouteNetlinkMessage> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message))
    }

    #[test]
    fn only_the_configured_links_wake_the_reconciler() {
        let mut watched = Watched { names: vec!["eth0".to_owned()], indexes: BTreeSet::from([2]) };
        assert!(watched.concerns(&new_link(2, "eth0")), "the state of a configured link");
        assert!(!watched.concerns(&new_link(9, "veth9")), "another link");
        assert!(watched.concerns(&new_address(2)), "an address of a configured link");
        assert!(!watched.concerns(&new_address(9)), "an address of another link");

        assert!(watched.concerns(&new_link(2, "renamed")), "the link lost its name");
        assert!(!watched.concerns(&new_address(2)), "an address of a link that is no longer configured");
        assert!(watched.concerns(&new_link(3, "eth0")), "a new link with the configured name");
        assert!(watched.concerns(&new_address(3)));
        let gone = RouteNetlinkMessage::DelLink(link(3, "eth0"));
        assert!(watched.concerns(&NetlinkPayload::InnerMessage(gone)), "the link went away");
        assert!(!watched.concerns(&new_address(3)));
        assert!(watched.concerns(&NetlinkPayload::Overrun(Vec::new())), "messages were lost");
    }
}
