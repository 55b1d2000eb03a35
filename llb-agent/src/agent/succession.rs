// SPDX-License-Identifier: Apache-2.0
//! What is handed over from one agent to the next, and the old one's end. The
//! conversation of the two is in `handover`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::addresses::AddressTable;
use crate::config::AfterHandover;
use crate::dataplane::packet::LinkLocks;
use crate::dataplane::{DataPlane, Planes};
use crate::handover::{Descriptors, Item, Successors, Takeover};
use crate::model::Frontend;
use crate::reconcile::{Reconciler, Rooms, Wakeups};
use crate::status::StatusSink;

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
        })
    }

    /// The next one. Cancel safe.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Why an agent serves no longer.
pub(super) enum Asked {
    Stop,
    HandOver(Takeover),
}

/// Until a signal comes or a new agent wants to take over. With `patience`, a
/// signal has come already, and this waits for the new agents that are there.
pub(super) async fn asked(
    successors: &mut Successors,
    signals: &mut Signals,
    patience: Option<Instant>,
) -> Asked {
    let none_waiting = successors.none_waiting();
    let over = async {
        match patience {
            None => std::future::pending().await,
            // Either way it is over.
            Some(until) => drop(tokio::time::timeout_at(until, none_waiting).await),
        }
    };
    tokio::select! {
        biased;
        takeover = successors.next() => Asked::HandOver(takeover),
        () = signals.stop() => Asked::Stop,
        () = over => Asked::Stop,
    }
}

/// The sockets that a predecessor gave.
#[derive(Default)]
pub(super) struct Inherited {
    pub(super) frontends: Vec<(Frontend, OwnedFd)>,
    /// The listener of the admin endpoint, and where it is.
    pub(super) admin: Option<(SocketAddr, OwnedFd)>,
}

/// Tells the sockets apart. Locks come later.
pub(super) fn sorted(goods: Descriptors) -> Inherited {
    let mut inherited = Inherited::default();
    for (item, socket) in goods {
        match item {
            Item::Frontend { vip, port, protocol } => {
                inherited.frontends.push((Frontend { vip, port, protocol }, socket));
            }
            Item::Admin { address } => inherited.admin = Some((address, socket)),
            Item::StateLock | Item::LinkLock { .. } => {}
        }
    }
    inherited
}

/// The lock of the state folder, and those of the links.
pub(super) fn locks(goods: Descriptors) -> anyhow::Result<(OwnedFd, LinkLocks)> {
    let (mut state, mut links) = (None, LinkLocks::new());
    for (item, lock) in goods {
        match item {
            Item::StateLock => state = Some(lock),
            Item::LinkLock { link } => drop(links.insert(link, lock.into())),
            Item::Frontend { .. } | Item::Admin { .. } => {}
        }
    }
    Ok((state.context("the llb-agent before this one gave no lock of the state folder")?, links))
}

/// Gives all there is to give to a new agent. After an error this agent is
/// still the one, and goes on.
pub(super) async fn hand_over(
    mut takeover: Takeover,
    frontends: io::Result<Descriptors>,
    (admin, admin_socket): (Item, &OwnedFd),
    lock: &OwnedFd,
    links: io::Result<LinkLocks>,
) -> anyhow::Result<()> {
    let mut sockets = frontends?;
    sockets.push((admin, admin_socket.try_clone()?));
    takeover.offer(&sockets).await?;
    let mut locks = vec![(Item::StateLock, lock.try_clone()?)];
    for (link, lock) in links? {
        locks.push((Item::LinkLock { link }, lock.into()));
    }
    Ok(takeover.give_up(&locks).await?)
}

/// Another agent serves: lets open connections end, and touches neither
/// addresses nor statuses. A first signal is no news, since it ends anyway; a
/// second one ends the connections.
pub(super) async fn leave<A: AddressTable, S: StatusSink>(
    reconciler: Reconciler<Planes, A, S>,
    wakeups: &Wakeups,
    mut signals: Signals,
    after: AfterHandover,
) {
    let Rooms { mut plane, .. } = reconciler.rooms;
    plane.hand_over();
    tracing::info!("handed over: old connections may end; two signals end them at once");
    let mut asked = 0;
    while !plane.observe().is_empty() {
        tokio::select! {
            () = wakeups.plane.notified() => {}
            () = signals.stop() => {
                asked += 1;
                if asked > 1 {
                    tracing::warn!("second signal: ending all connections now");
                    plane.abort();
                }
            }
        }
    }
    if after == AfterHandover::Wait && asked == 0 {
        tracing::info!("all connections have ended; waiting for SIGTERM");
        signals.stop().await;
    }
    tracing::info!("ended");
}
