// SPDX-License-Identifier: Apache-2.0
//! The descriptors that a running agent passes to its successor: how they are
//! collected, and how the successor tells them apart. The conversation of the
//! two is in `handover`.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::Context;

use super::locks::Locks;
use crate::dataplane::Planes;
use crate::dataplane::packet::LinkLocks;
use crate::dataplane::proxy::RelaySocket;
use crate::handover::{Descriptors, Item, Takeover};
use crate::model::Frontend;

/// The sockets that a predecessor gave.
#[derive(Default)]
pub(super) struct InheritedSockets {
    pub(super) frontends: Vec<RelaySocket>,
    /// The listener of the admin endpoint, and its address.
    pub(super) admin: Option<(SocketAddr, OwnedFd)>,
}

/// Tells the sockets apart. Locks come later.
pub(super) fn inherited_sockets(goods: Descriptors) -> InheritedSockets {
    let mut inherited = InheritedSockets::default();
    for (item, socket) in goods {
        match item {
            Item::Frontend { vip, port, protocol, is_beside_packets } => {
                let frontend = Frontend { vip, port, protocol };
                inherited.frontends.push(RelaySocket { frontend, is_beside_packets, socket });
            }
            Item::Admin { address } => inherited.admin = Some((address, socket)),
            Item::StateLock | Item::AgentLock { .. } | Item::LinkLock { .. } => {}
        }
    }
    inherited
}

/// The locks that a predecessor gave up.
pub(super) struct InheritedLocks {
    /// Of the state folder.
    pub(super) state: OwnedFd,
    /// Of the links, by number.
    pub(super) agent: Vec<(u32, OwnedFd)>,
    /// Of the folders of eBPF objects.
    pub(super) links: LinkLocks,
}

/// Tells the locks apart.
pub(super) fn inherited_locks(goods: Descriptors) -> anyhow::Result<InheritedLocks> {
    let (mut state, mut agent, mut links) = (None, Vec::new(), LinkLocks::new());
    for (item, lock) in goods {
        match item {
            Item::StateLock => state = Some(lock),
            Item::AgentLock { ifindex } => agent.push((ifindex, lock)),
            Item::LinkLock { link } => drop(links.insert(link, lock.into())),
            Item::Frontend { .. } | Item::Admin { .. } => {}
        }
    }
    let state = state.context("the running llb-agent did not pass on the lock of the state folder")?;
    Ok(InheritedLocks { state, agent, links })
}

/// Passes everything to a new agent. After an error this agent is still in
/// charge, and continues.
pub(super) async fn hand_over(
    takeover: Takeover,
    planes: &Planes,
    admin: Option<&(SocketAddr, OwnedFd)>,
    own: &Locks,
) -> anyhow::Result<()> {
    planes.stop_attaching();
    let outcome = pass_on(takeover, planes, admin, own).await;
    if outcome.is_err() {
        planes.resume_attaching();
    }
    outcome
}

async fn pass_on(
    mut takeover: Takeover,
    planes: &Planes,
    admin: Option<&(SocketAddr, OwnedFd)>,
    own: &Locks,
) -> anyhow::Result<()> {
    let item = |RelaySocket { frontend: Frontend { vip, port, protocol }, is_beside_packets, socket }| {
        (Item::Frontend { vip, port, protocol, is_beside_packets }, socket)
    };
    let mut sockets: Descriptors = planes.sockets()?.into_iter().map(item).collect();
    if let Some((address, socket)) = admin {
        sockets.push((Item::Admin { address: *address }, socket.try_clone()?));
    }
    takeover.offer(&sockets).await?;
    let mut locks = vec![(Item::StateLock, own.state.try_clone()?)];
    for (ifindex, lock) in own.agent.descriptors()? {
        locks.push((Item::AgentLock { ifindex }, lock));
    }
    for (link, lock) in planes.locks()? {
        locks.push((Item::LinkLock { link }, lock.into()));
    }
    Ok(takeover.give_up(&locks).await?)
}
