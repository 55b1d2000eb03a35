// SPDX-License-Identifier: Apache-2.0
//! The interface to the addresses on the links. `netlink` and `fake` implement it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::error::AddressError;
use crate::model::{AddressKey, Host, Link, Mac, Problem};

/// The link devices and their addresses.
#[expect(async_fn_in_trait, reason = "called from one task of this crate, never spawned")]
pub trait AddressTable {
    /// The link devices in the order of the command line, then the link of routed VIPs, with all their
    /// addresses, and which of these llb added. A link that does not exist is left
    /// out.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError>;

    /// What the machine itself needs, and to which of `pods` it has no route. Other links are as they
    /// were when [`AddressTable::observe`] was called last.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn host(&mut self, pods: BTreeSet<IpAddr>) -> Result<Host, AddressError>;

    /// Prepares for the calls of [`AddressTable::add`] that follow, all in one go. They will add
    /// the first `most` of `coming` that can be added. This only saves time: `add` works without it.
    async fn prepare(&mut self, _coming: &[(&AddressKey, u8)], _most: usize) {}

    /// Finds out whether another host has the VIP. Returns [`Addition::Pending`] without waiting until
    /// that is known; call it again then. Changes nothing.
    ///
    /// # Errors
    /// [`AddressError::Taken`] if another host has it.
    async fn probe(&mut self, key: &AddressKey) -> Result<Addition, AddressError>;

    /// Whether probes have just shown that no other host has the VIP, or nobody can be asked.
    fn is_free(&self, key: &AddressKey) -> bool;

    /// Puts the VIP on the link, marked as llb's, and announces it. Until it is
    /// known that no other host has it, returns [`Addition::Pending`] without
    /// waiting; call it again then. Idempotent. Uses what
    /// [`AddressTable::observe`] has read.
    ///
    /// # Errors
    /// The VIP was not added. [`AddressError::Taken`] if another host has it.
    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<Addition, AddressError>;

    /// Takes the VIP off the link if llb added it. Idempotent.
    ///
    /// # Errors
    /// The VIP may still be on the link.
    async fn remove(&mut self, key: &AddressKey, prefix_length: u8) -> Result<(), AddressError>;

    /// VIPs that this machine's group has published. Another box of the group may have one for a moment longer, so
    /// they are added without asking whether another host has them.
    fn trust(&mut self, _vips: BTreeSet<IpAddr>) {}

    /// The VIPs on links that another host claims too, with the MAC of that host.
    fn conflicts(&self) -> BTreeMap<AddressKey, Mac>;

    /// To be called when this agent ends and its VIPs are removed: removes what else it made for them. Idempotent.
    ///
    /// # Errors
    /// Something is still there.
    async fn leave(&mut self) -> Result<(), AddressError> {
        Ok(())
    }

    /// What is wrong with links.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}

/// The result of [`AddressTable::add`] and [`AddressTable::probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// The address is on the link, or it was only probed for and no other host has it.
    Done,
    /// Probes for another owner are under way. The reconciler is woken when they end.
    Pending,
}
