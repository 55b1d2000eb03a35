// SPDX-License-Identifier: Apache-2.0
//! What the rest of the agent asks of addresses. How it is done is in the
//! implementations.

use std::collections::BTreeMap;

use super::error::AddressError;
use crate::model::{AddressKey, Host, Link, Mac};

/// The link devices and their addresses.
#[expect(async_fn_in_trait, reason = "called from one task of this crate, never spawned")]
pub trait AddressTable {
    /// The link devices in the order of the command line, with all their
    /// addresses; those that llb added are marked. A missing link is absent.
    ///
    /// # Errors
    /// The kernel did not answer.
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError>;

    /// What the machine itself needs. Other links are as they were when
    /// [`AddressTable::observe`] was called last.
    ///
    /// # Errors
    /// The kernel did not answer.
    async fn host(&mut self) -> Result<Host, AddressError>;

    /// [`AddressTable::add`] will be called for these, with their prefix lengths,
    /// or for the first `most` that may be added: what can be done once for all
    /// of them is done. Nothing depends on it but time.
    async fn prepare(&mut self, _coming: &[(&AddressKey, u8)], _most: usize) {}

    /// Puts the VIP on the link, marked as llb's own, and announces it, once it
    /// is known that no other host has it; never waits for that. Idempotent,
    /// and cheap to ask again. Links are known from [`AddressTable::observe`].
    ///
    /// # Errors
    /// The address is not there now; [`AddressError::Taken`] if another host has it.
    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<Addition, AddressError>;

    /// Takes the VIP off the link; idempotent; only what llb added.
    ///
    /// # Errors
    /// The address may still be there.
    async fn remove(&mut self, key: &AddressKey, prefix_length: u8) -> Result<(), AddressError>;

    /// VIPs that are on their links, and that another host claims too: its MAC.
    fn conflicts(&self) -> BTreeMap<AddressKey, Mac>;
}

/// What came of [`AddressTable::add`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// The address is on the link.
    Done,
    /// It is being probed for; the reconciler is woken up when that is over.
    Pending,
}
