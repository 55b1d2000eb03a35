// SPDX-License-Identifier: Apache-2.0
//! Makes, names and removes virtual links.

use std::io;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::connection::Connection;

impl Connection {
    /// Makes a link that is connected to nothing, and sets it up: a dummy link, or a bridge without ports if the kernel has no
    /// dummy links.
    pub(crate) async fn make_idle_link(&mut self, name: &str) -> io::Result<()> {
        match self.make_link(name, InfoKind::Dummy).await {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                self.make_link(name, InfoKind::Bridge).await
            }
            made => made,
        }
    }

    async fn make_link(&mut self, name: &str, kind: InfoKind) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes =
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
        self.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Sets the text that `ip link` shows as the link's alias.
    pub(crate) async fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
        self.change(RouteNetlinkMessage::SetLink(link), 0).await
    }

    /// Removes the link with its addresses.
    pub(crate) async fn remove_link(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.change(RouteNetlinkMessage::DelLink(link), 0).await
    }
}
