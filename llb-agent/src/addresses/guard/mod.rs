// SPDX-License-Identifier: Apache-2.0
//! Keeps two hosts from having one VIP: probes before one is claimed, listens
//! for claims of others while it is served, announces it when its place on the
//! segment is new. The kernel's addresses are not changed here.
//!
//! ```text
//!   ask() ---------------> Ledger <--- listeners, two per link: ARP, NDP
//!   follow(): links, own --> |
//!     ^                      +--> task: probes, paced --> packet socket
//!     `---- changed <--------'
//!   announcements, defences --> Announcer
//! ```
//!
//! [`heard`] reads frames, [`ledger`] decides; this file has tasks and sockets.
//! Two that probe for one IPv6 address at the same moment may miss each other
//! (a VIP's multicast group is joined with the address); their announcements don't.

mod heard;
mod ledger;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::Socket;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::heard::Heard;
pub(super) use self::ledger::Verdict;
use self::ledger::{Ledger, Port, Step};
use super::announce::packet::{self, HEARD_LENGTH, Listener};
use super::announce::{Announcer, Repeat};
use super::frame;
use super::known::LOOK_LASTS;
use crate::model::{AddressKey, Family, Mac};
use crate::netlink::{Connection, LinkDevice};

/// Probes are sent in bursts of this many, with this pause between them. All new
/// VIPs are probed for at the same time: a hundred in about 0.2 s, 2,000 (6,000
/// frames of at most 78 bytes) in 0.6 s. A burst is 40 us of a link of 1 Gbit/s,
/// and all of them 1 % of it; each lost probe has two others.
const BURST: usize = 64;
const PACE: Duration = Duration::from_millis(5);

/// After a listener failed, which it does when its link goes down.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// A default gateway, and its MAC if the kernel knows it.
type Gateway = (IpAddr, Option<Mac>);

/// When the kernel was asked, and what it said.
type Answered = (Instant, Option<Gateway>);

/// Watches over VIPs until it is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    shared: Arc<Shared>,
    announcer: Announcer,
    /// What the kernel said last, by the link's number and the family, so that
    /// thousands of VIPs that come together do not ask for it one by one.
    gateways: Mutex<BTreeMap<(u32, Family), Answered>>,
    /// By the link's number; aborted when it goes.
    listeners: BTreeMap<u32, JoinSet<()>>,
    /// Aborted with the guard.
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    ledger: Mutex<Ledger>,
    /// The ledger may have something due earlier.
    grown: Notify,
    /// Wakes the reconciler.
    changed: Arc<Notify>,
}

impl Guard {
    /// Opens its sockets in the caller's network namespace. `changed` is
    /// notified when [`Guard::ask`] has a verdict, and when conflicts begin or end.
    ///
    /// # Errors
    /// Most likely a missing right: CAP_NET_RAW.
    pub(super) fn open(changed: Arc<Notify>) -> io::Result<Self> {
        let socket = packet::sender()?;
        let shared = Arc::new(Shared { ledger: Mutex::default(), grown: Notify::new(), changed });
        let mut task = JoinSet::new();
        task.spawn(probe(Arc::clone(&shared), socket));
        Ok(Self {
            shared,
            announcer: Announcer::open()?,
            gateways: Mutex::default(),
            listeners: BTreeMap::new(),
            _task: task,
        })
    }

    /// Takes in what there is now: `links`, and the addresses that are llb's;
    /// then announces what is due for it.
    pub(super) async fn follow(
        &mut self,
        connection: &mut Connection,
        links: &[LinkDevice],
        own: &BTreeSet<AddressKey>,
    ) {
        let now = Instant::now();
        let ports: BTreeMap<String, Port> =
            links.iter().filter_map(|link| Some((link.name.clone(), port(link)?))).collect();
        self.listen(links);
        let suspects = {
            let mut ledger = self.shared.ledger();
            ledger.hold(own, now);
            ledger.set_ports(ports, now);
            ledger.has_suspects()
        };
        self.shared.grown.notify_one();
        if suspects {
            match connection.macs().await {
                Ok(macs) => {
                    for (key, mac) in self.shared.ledger().judge(macs) {
                        tracing::warn!(address = %key, %mac, "another host claims this VIP; it is defended");
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot tell whether a claim of a VIP is foreign"),
            }
        }
        let defences = self.shared.ledger().take_defences(now);
        for key in defences {
            self.announce(connection, &key, Repeat::Once).await;
        }
        let announcements = self.shared.ledger().take_announcements();
        for key in announcements {
            self.announce(connection, &key, Repeat::Series).await;
        }
    }

    /// Whether the address may be claimed; cheap, and may be asked at any time.
    pub(super) fn ask(&self, key: &AddressKey) -> Verdict {
        let verdict = self.shared.ledger().ask(key, Instant::now());
        self.shared.grown.notify_one();
        verdict
    }

    /// Whether [`Guard::ask`] would say so; asks nobody.
    pub(super) fn is_free(&self, key: &AddressKey) -> bool {
        self.shared.ledger().is_free(key, Instant::now())
    }

    /// Announces a VIP that was just added. Does nothing on a link that has no
    /// neighbours to tell.
    pub(super) async fn added(&self, connection: &mut Connection, key: &AddressKey) {
        self.announce(connection, key, Repeat::Series).await;
    }

    /// Everything held on `link` is checked, and announced, anew.
    pub(super) fn recheck(&self, link: &str) {
        self.shared.ledger().recheck(link, Instant::now());
        self.shared.grown.notify_one();
    }

    /// The address is no longer on its link, whoever removed it.
    pub(super) fn lost(&self, key: &AddressKey) {
        self.announcer.cancel(key);
        self.shared.ledger().lost(key, Instant::now());
    }

    /// VIPs on links that other hosts claim, with their MAC.
    pub(super) fn conflicts(&self) -> BTreeMap<AddressKey, Mac> {
        self.shared.ledger().conflicts()
    }

    async fn announce(&self, connection: &mut Connection, key: &AddressKey, repeat: Repeat) {
        let Some(Port { index, mac }) = self.shared.ledger().port(key) else { return };
        let mut frames = vec![frame::announcement(mac, key.address)];
        if let Some((router, router_mac)) = self.gateway(connection, index, key.address).await {
            frames.extend(frame::request(mac, key.address, router, router_mac));
        }
        self.announcer.announce(key, index, frames, repeat);
    }

    async fn gateway(&self, connection: &mut Connection, index: u32, vip: IpAddr) -> Option<Gateway> {
        let place = (index, Family::of(vip));
        let known = self.gateways.lock().unwrap_or_else(PoisonError::into_inner).get(&place).copied();
        if let Some((_, gateway)) = known.filter(|(at, _)| at.elapsed() < LOOK_LASTS) {
            return gateway;
        }
        match connection.gateway(index, vip).await {
            Ok(gateway) => {
                let mut gateways = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
                gateways.insert(place, (Instant::now(), gateway));
                gateway
            }
            Err(error) => {
                tracing::debug!(%error, "cannot tell the default gateway");
                None
            }
        }
    }

    fn listen(&mut self, links: &[LinkDevice]) {
        let indexes: BTreeSet<u32> =
            links.iter().filter(|link| link.neighbour_mac().is_some()).map(|link| link.ifindex).collect();
        self.listeners.retain(|index, _| indexes.contains(index));
        for index in indexes {
            let listeners = self.listeners.entry(index).or_default();
            if !listeners.is_empty() {
                continue;
            }
            for listener in [Listener::arp(index), Listener::neighbor_discovery(index)] {
                match listener {
                    Ok(listener) => _ = listeners.spawn(listen(Arc::clone(&self.shared), listener, index)),
                    Err(error) => tracing::warn!(%error, "claims of other hosts are not noticed"),
                }
            }
        }
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // The ledger is whole between any two statements that could panic.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(shared: Arc<Shared>, listener: Listener, index: u32) {
    let mut buffer = [0; HEARD_LENGTH];
    loop {
        match listener.next(&mut buffer).await {
            Ok(frame) => {
                let Some(heard) = Heard::parse(frame) else { continue };
                if shared.ledger().hear(index, heard, Instant::now()) {
                    shared.changed.notify_one();
                    shared.grown.notify_one();
                }
            }
            Err(error) => {
                tracing::debug!(%error, index, "listening was interrupted");
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
        }
    }
}

async fn probe(shared: Arc<Shared>, socket: Socket) {
    let mut sent = 0;
    loop {
        let step = shared.ledger().step(Instant::now());
        match step {
            Some(Step::Send(index, frame)) => {
                if let Err(error) = packet::send(&socket, index, &frame) {
                    tracing::debug!(%error, index, "cannot probe");
                }
                sent += 1;
                if sent % BURST == 0 {
                    tokio::time::sleep(PACE).await;
                }
            }
            Some(Step::Changed) => shared.changed.notify_one(),
            None => {
                let next_due = shared.ledger().next_due();
                match next_due {
                    None => shared.grown.notified().await,
                    Some(due) => _ = tokio::time::timeout_at(due, shared.grown.notified()).await,
                }
            }
        }
    }
}

/// `None` for a link where nobody hears a frame now.
fn port(link: &LinkDevice) -> Option<Port> {
    let mac = link.neighbour_mac()?;
    link.is_running.then_some(Port { index: link.ifindex, mac })
}
