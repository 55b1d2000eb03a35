// SPDX-License-Identifier: Apache-2.0
//! The links of `--linkdevice` that exist and are this agent's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::agent_lock::AgentLocks;
use super::error::AddressError;
use super::lock_error::AgentLockError;
use crate::model::Problem;
use crate::netlink::{Connection, LinkDevice};

/// While another agent has a link, its lock is tried this often. The kernel does not
/// tell when a lock becomes free.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// The configured links.
#[derive(Debug)]
pub(super) struct LinkDevices {
    names: Vec<String>,
    /// `None` until this agent is in charge. Then a link without its lock counts as missing.
    locks: Option<AgentLocks>,
    /// The links that another agent has, by number.
    refusals: BTreeMap<u32, AgentLockError>,
    /// Wakes the reconciler.
    changed: Arc<Notify>,
    /// At most one task, which waits for the next try. Aborted with the table.
    retry: JoinSet<()>,
}

impl LinkDevices {
    /// The links with these names; they need not exist yet. `changed` is notified
    /// when a lock is to be tried again.
    pub(super) fn new(names: Vec<String>, changed: Arc<Notify>) -> Self {
        Self { names, locks: None, refusals: BTreeMap::new(), changed, retry: JoinSet::new() }
    }

    /// The names on the command line.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// From now on this agent is in charge.
    pub(super) fn keep_others_off(&mut self, locks: AgentLocks) {
        self.locks = Some(locks);
    }

    /// Those that exist, in the order of the command line. Takes the lock of a link
    /// that is new.
    pub(super) async fn present(
        &mut self,
        connection: &mut Connection,
    ) -> Result<Vec<LinkDevice>, AddressError> {
        let mut present = Vec::new();
        for name in &self.names {
            if let Some(link) = connection.link(name).await.map_err(AddressError::Read)? {
                // The kernel also finds a link by an alternative name. llb goes by the configured one.
                present.push(LinkDevice { name: name.clone(), ..link });
            }
        }
        if let Some(locks) = &self.locks {
            locks.own_of(&mut present, &mut self.refusals).await;
        }
        while self.retry.try_join_next().is_some() {}
        if !self.refusals.is_empty() && self.retry.is_empty() {
            let changed = Arc::clone(&self.changed);
            self.retry.spawn(async move {
                tokio::time::sleep(RETRY_PAUSE).await;
                changed.notify_one();
            });
        }
        Ok(present)
    }

    /// The link of that name, if it exists and this agent may change it.
    pub(super) async fn find(
        &self,
        connection: &mut Connection,
        name: &str,
    ) -> Result<Option<LinkDevice>, AddressError> {
        let found = connection.link(name).await.map_err(AddressError::Read)?;
        Ok(found.filter(|link| self.locks.as_ref().is_none_or(|locks| locks.has(link.ifindex))))
    }

    /// The links that another agent has.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.refusals.values().map(AgentLockError::problem).collect()
    }
}
