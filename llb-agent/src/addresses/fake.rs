// SPDX-License-Identifier: Apache-2.0
//! Links in memory, for tests without root. Other hosts can be told to have addresses.
//!
//! A green test with these links does not prove that the kernel behaves like
//! them: secondary addresses that go with their primary one, tags, races with
//! other programs, links that go away, real probes and their timing are not
//! here. The tests of `addresses` with root cover those. Nothing fails here
//! either; `tests/simulation/faulty.rs` adds faults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Addition, AddressError, AddressTable};
use crate::model::{AddressKey, Host, Link, LinkAddress, Mac};

/// The other host: the unicast range for documentation (RFC 9542 section 2.1.4).
const OTHER: Mac = Mac([0x00, 0x00, 0x5e, 0x00, 0x53, 0x01]);

/// Links whose addresses outlive the agent, as a kernel's do.
#[derive(Clone, Debug, Default)]
pub struct FakeAddresses {
    /// The links.
    pub links: Vec<Link>,
    /// What the machine needs.
    pub host: Host,
    /// Addresses that another host has.
    pub taken: BTreeSet<IpAddr>,
    /// Addresses that are being probed for. Whether another host has one is known at once, and counts until
    /// it is added or `probe` has said it.
    probing: BTreeSet<AddressKey>,
    /// Set when the caller asked to add or remove a foreign address.
    pub touched_foreign: bool,
}

impl FakeAddresses {
    fn link(&mut self, key: &AddressKey) -> Result<&mut Link, AddressError> {
        let missing = AddressError::NoSuchLink { link: key.link.clone() };
        self.links.iter_mut().find(|link| link.name == key.link).ok_or(missing)
    }
}

impl AddressTable for FakeAddresses {
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError> {
        Ok(self.links.clone())
    }

    async fn host(&mut self, _pods: BTreeSet<IpAddr>) -> Result<Host, AddressError> {
        Ok(self.host.clone())
    }

    async fn probe(&mut self, key: &AddressKey) -> Result<Addition, AddressError> {
        self.link(key)?;
        if self.is_free(key) {
            return Ok(Addition::Done);
        }
        if self.probing.insert(key.clone()) {
            return Ok(Addition::Pending);
        }
        self.probing.remove(key);
        Err(AddressError::Taken { key: key.clone(), mac: OTHER })
    }

    fn is_free(&self, key: &AddressKey) -> bool {
        self.probing.contains(key) && !self.taken.contains(&key.address)
    }

    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<Addition, AddressError> {
        let link = self.link(key)?;
        let foreign = link.has_foreign(key.address);
        if !link.addresses.iter().any(|known| known.net.addr() == key.address) {
            if self.probing.insert(key.clone()) {
                return Ok(Addition::Pending);
            }
            self.probing.remove(key);
            if self.taken.contains(&key.address) {
                return Err(AddressError::Taken { key: key.clone(), mac: OTHER });
            }
            if let Ok(net) = IpNet::new(key.address, prefix_length) {
                let vip = LinkAddress { net, ours: true, primary: false };
                self.link(key)?.addresses.push(vip);
            }
        }
        self.touched_foreign |= foreign;
        Ok(Addition::Done)
    }

    async fn remove(&mut self, key: &AddressKey, _prefix_length: u8) -> Result<(), AddressError> {
        let foreign = self.link(key)?.has_foreign(key.address);
        self.touched_foreign |= foreign;
        self.link(key)?.addresses.retain(|known| !known.ours || known.net.addr() != key.address);
        Ok(())
    }

    fn conflicts(&self) -> BTreeMap<AddressKey, Mac> {
        let own = self.links.iter().flat_map(|link| {
            let ours = link.addresses.iter().filter(|known| known.ours);
            ours.map(|known| AddressKey { link: link.name.clone(), address: known.net.addr() })
        });
        own.filter(|key| self.taken.contains(&key.address)).map(|key| (key, OTHER)).collect()
    }
}
