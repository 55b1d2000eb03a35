// SPDX-License-Identifier: Apache-2.0
//! Keeps two hosts from having the same VIP: probes before a VIP is added,
//! listens for claims of other hosts while it is served, and announces it when
//! neighbours may not know its place. It does not change the kernel's addresses.
//!
//! ```text
//!   ask() ----------------> Ownership <--- listeners, two for each link: ARP, NDP
//!   follow(): links, VIPs --> |
//!     ^                       +--> task: probes, paced --> packet socket
//!     `---- changed <---------'
//!   announcements, defences --> Announcer
//! ```
//!
//! [`heard`] reads frames, [`ownership`] decides, [`tasks`] send and listen.
//! Two hosts that probe for one IPv6 address at the same moment may miss each
//! other, because a host joins the multicast group of an address only when it
//! adds the address. Each then hears the other's announcement.

mod gateways;
mod heard;
mod held;
mod ownership;
mod probes;
mod tasks;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::gateways::{Gateway, Gateways};
pub(super) use self::heard::Heard;
use self::probes::LiveLink;
pub(super) use self::probes::{PROBE_INTERVAL, PROBES};
use self::tasks::Shared;
pub(super) use self::wanted::ProbeResult;
use super::announce::packet;
use super::announce::{Announcer, Repeat};
use super::frame;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::model::{AddressKey, Family, Mac};
use crate::netlink::{Connection, LinkDevice};
use crate::packet_socket;

/// Watches over VIPs until it is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    shared: Arc<Shared>,
    announcer: Announcer,
    gateways: Gateways,
    /// keepalived decides which box of the group has a VIP, so this one defends none.
    in_group: bool,
    /// By the number of the link; aborted when the link goes away.
    listeners: BTreeMap<u32, JoinSet<()>>,
    /// Aborted with the guard.
    _probe: JoinSet<()>,
}

impl Guard {
    /// Opens its sockets in the caller's network namespace. `changed` is
    /// notified when [`Guard::ask`] has a result, and when a conflict begins or
    /// ends.
    ///
    /// # Errors
    /// The kernel does not provide a packet socket, mostly for lack of CAP_NET_RAW.
    pub(super) fn open(changed: Arc<Notify>) -> io::Result<Self> {
        let socket = packet_socket::sender()?;
        let shared = Arc::new(Shared::new(changed));
        let mut probe = JoinSet::new();
        probe.spawn(tasks::probe(Arc::clone(&shared), socket));
        Ok(Self {
            shared,
            announcer: Announcer::open()?,
            gateways: Gateways::default(),
            in_group: false,
            listeners: BTreeMap::new(),
            _probe: probe,
        })
    }

    /// From now on this machine is one of a group. When a share moves, two boxes may have a VIP for a moment: an
    /// announcement of the one that loses it would lead clients to the wrong box.
    pub(super) fn join_group(&mut self) {
        self.in_group = true;
        self.announcer.join_group();
        self.shared.ownership().join_group();
    }

    /// Takes in the links and llb's addresses as they are now, then announces
    /// what is to be announced.
    pub(super) async fn follow(
        &mut self,
        connection: &mut Connection,
        links: &[LinkDevice],
        own: &BTreeSet<AddressKey>,
    ) {
        let now = clock::now();
        let live: BTreeMap<String, LiveLink> =
            links.iter().filter_map(|link| Some((link.name.clone(), live(link)?))).collect();
        self.listen(links);
        let has_unjudged_claims = {
            let mut ownership = self.shared.ownership();
            ownership.hold(own, now);
            ownership.set_links(live, now);
            ownership.has_unjudged_claims()
        };
        self.shared.due_changed();
        if has_unjudged_claims {
            match connection.macs().await {
                Ok(macs) => {
                    for (key, mac) in self.shared.ownership().judge(macs) {
                        let and =
                            if self.in_group { "keepalived decides who has it" } else { "it is defended" };
                        tracing::warn!(address = %key, %mac, "another host claims this VIP; {and}");
                    }
                }
                Err(error) => tracing::warn!(
                    error = %ErrorChain(&error),
                    "cannot tell whether a claim to a VIP comes from another host"
                ),
            }
        }
        let defences = self.shared.ownership().take_defences(now);
        for key in defences.into_iter().filter(|_| !self.in_group) {
            self.announce(connection, &key, Repeat::Once).await;
        }
        let announcements = self.shared.ownership().take_announcements();
        for key in announcements {
            self.announce(connection, &key, Repeat::Series).await;
        }
    }

    /// Whether llb may add the address. Starts probes if nothing is known, and
    /// never waits.
    pub(super) fn ask(&self, key: &AddressKey) -> ProbeResult {
        let result = self.shared.ownership().ask(key, clock::now());
        self.shared.due_changed();
        result
    }

    /// Whether [`Guard::ask`] would return [`ProbeResult::Free`]; starts no probes.
    pub(super) fn is_free(&self, key: &AddressKey) -> bool {
        self.shared.ownership().is_free(key, clock::now())
    }

    /// Announces a VIP that was just added, if its link has neighbours.
    pub(super) async fn added(&self, connection: &mut Connection, key: &AddressKey) {
        self.announce(connection, key, Repeat::Series).await;
    }

    /// Probes for all VIPs on `link`, then announces them.
    pub(super) fn recheck(&self, link: &str) {
        self.shared.ownership().recheck(link, clock::now());
        self.shared.due_changed();
    }

    /// The address is no longer on its link, whoever removed it.
    pub(super) fn lost(&self, key: &AddressKey) {
        self.announcer.cancel(key);
        self.shared.ownership().lost(key, clock::now());
    }

    /// The VIPs on links that another host claims, with its MAC.
    pub(super) fn conflicts(&self) -> BTreeMap<AddressKey, Mac> {
        self.shared.ownership().conflicts()
    }

    async fn announce(&self, connection: &mut Connection, key: &AddressKey, repeat: Repeat) {
        let Some(LiveLink { index, mac }) = self.shared.ownership().link(key) else { return };
        let mut frames = vec![frame::announcement(mac, key.address)];
        if let Some((router, router_mac)) = self.gateway(connection, index, key.address).await {
            frames.extend(frame::request(mac, key.address, router, router_mac));
        }
        self.announcer.announce(key, index, frames, repeat);
    }

    async fn gateway(&self, connection: &mut Connection, index: u32, vip: IpAddr) -> Option<Gateway> {
        let family = Family::of(vip);
        if let Some(gateway) = self.gateways.get(index, family, clock::now()) {
            return gateway;
        }
        match connection.gateway(index, vip).await {
            Ok(gateway) => {
                self.gateways.insert(index, family, gateway, clock::now());
                gateway
            }
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "cannot read the default gateway, so it is not told of the VIP");
                None
            }
        }
    }

    /// Listens on exactly those of `links` that have neighbours.
    fn listen(&mut self, links: &[LinkDevice]) {
        let links = links.iter().filter(|link| link.neighbour_mac().is_some());
        let indexes: BTreeSet<u32> = links.map(|link| link.ifindex).collect();
        self.listeners.retain(|index, _| indexes.contains(index));
        for index in indexes {
            let listeners = self.listeners.entry(index).or_default();
            if !listeners.is_empty() {
                continue;
            }
            for listener in [packet::arp(index), packet::neighbor_discovery(index)] {
                match listener {
                    Ok(listener) => {
                        _ = listeners.spawn(tasks::listen(Arc::clone(&self.shared), listener, index))
                    }
                    Err(error) => tracing::warn!(
                        error = %ErrorChain(&error),
                        index,
                        "cannot listen on the link, so claims of other hosts are not noticed"
                    ),
                }
            }
        }
    }
}

/// `None` for a link without a carrier or without neighbours.
fn live(link: &LinkDevice) -> Option<LiveLink> {
    let mac = link.neighbour_mac()?;
    link.is_running.then_some(LiveLink { index: link.ifindex, mac })
}
