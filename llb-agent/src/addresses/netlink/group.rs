// SPDX-License-Identifier: Apache-2.0
//! The part of the table that only a machine in a group needs: markers, VIPs that are added without a probe.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::Notify;

use super::NetlinkAddresses;
use crate::addresses::error::AddressError;
use crate::addresses::guard::ProbeResult;
use crate::addresses::table::Addition;
use crate::addresses::watch;
use crate::model::AddressKey;
use crate::ownership::LOOPBACK;

impl NetlinkAddresses {
    /// From now on this machine is one of a group: keepalived decides which VIPs are here. `changed` is notified when
    /// it has moved a share.
    ///
    /// # Errors
    /// The kernel does not mark addresses, or does not provide a netlink socket.
    pub fn join_group(&mut self, changed: Arc<Notify>) -> Result<(), AddressError> {
        if !self.tag_in_kernel {
            let release = rustix::system::uname().release().to_string_lossy().into_owned();
            return Err(AddressError::GroupNeedsTag { release });
        }
        self.trusted = Some(BTreeSet::new());
        if let Some(guard) = &mut self.guard {
            guard.join_group();
        }
        let messages = watch::subscribe().map_err(AddressError::Read)?;
        self.watch.spawn(watch::run(vec![LOOPBACK.to_owned()], messages, changed));
        Ok(())
    }

    /// The markers that were there at the last `observe`.
    pub fn markers(&self) -> &BTreeSet<Ipv4Addr> {
        self.host.markers()
    }

    /// Announces a VIP that is on its link already.
    pub async fn announce(&mut self, key: &AddressKey) {
        if let Some(guard) = &self.guard {
            guard.added(&mut self.connection, key).await;
        }
    }

    /// Whether another host has the address. Without a guard nobody can be asked, and of a VIP of the group it is not asked.
    pub(super) fn ask(&self, key: &AddressKey) -> Result<Addition, AddressError> {
        if self.is_trusted(key) {
            return Ok(Addition::Done);
        }
        match self.guard.as_ref().map_or(ProbeResult::Free, |guard| guard.ask(key)) {
            ProbeResult::Free => Ok(Addition::Done),
            ProbeResult::Pending => Ok(Addition::Pending),
            ProbeResult::Taken(mac) => Err(AddressError::Taken { key: key.clone(), mac }),
        }
    }

    pub(super) fn is_trusted(&self, key: &AddressKey) -> bool {
        self.trusted.as_ref().is_some_and(|trusted| trusted.contains(&key.address))
    }
}
