// SPDX-License-Identifier: Apache-2.0
//! Wakes the reconciler when the configured links or their addresses change.
//! It says that something changed, never what: the reconciler reads again.

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

use crate::netlink::Connection;

/// A failed subscription is tried again after this; until then changes are
/// only seen when something else makes the reconciler read.
const REOPEN_PAUSE: Duration = Duration::from_secs(5);

/// What the kernel tells unasked.
pub(super) type Messages = BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

/// Asks the kernel for all changes from now on.
///
/// # Errors
/// The kernel has no socket for us.
pub(super) fn subscribe() -> io::Result<Messages> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    Ok(messages.map(|(message, _)| message).boxed())
}

/// Notifies `changed` for every message that is about one of `links`; runs
/// until it is aborted.
pub(super) async fn run(links: Vec<String>, mut messages: Messages, changed: Arc<Notify>) {
    let mut watched = Watched::read(links).await;
    loop {
        while let Some(message) = messages.next().await {
            if watched.concerns(&message.payload) {
                changed.notify_one();
            }
        }
        messages = loop {
            tokio::time::sleep(REOPEN_PAUSE).await;
            match subscribe() {
                Ok(messages) => break messages,
                Err(error) => tracing::warn!(%error, "changes of links and addresses are not noticed"),
            }
        };
        watched = Watched::read(watched.names).await;
        changed.notify_one();
    }
}

/// The configured links, and the numbers of those that exist: a message about
/// an address has only the number, and a renamed link keeps only the number.
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
                // A link that can't be read now is learnt from its next message.
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
            // Messages were lost, any of them could have been about ours.
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
        assert!(watched.concerns(&new_link(2, "eth0")), "its state");
        assert!(!watched.concerns(&new_link(9, "veth9")), "another link");
        assert!(watched.concerns(&new_address(2)), "its address");
        assert!(!watched.concerns(&new_address(9)), "an address of another link");

        assert!(watched.concerns(&new_link(2, "renamed")), "it lost its name");
        assert!(!watched.concerns(&new_address(2)), "no longer ours");
        assert!(watched.concerns(&new_link(3, "eth0")), "a new one of that name");
        assert!(watched.concerns(&new_address(3)));
        let gone = RouteNetlinkMessage::DelLink(link(3, "eth0"));
        assert!(watched.concerns(&NetlinkPayload::InnerMessage(gone)), "it went away");
        assert!(!watched.concerns(&new_address(3)));
        assert!(watched.concerns(&NetlinkPayload::Overrun(Vec::new())), "messages were lost");
    }
}
