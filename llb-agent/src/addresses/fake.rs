//! Links in memory, for the simulation. They can be told to fail.

use std::io;

use ipnet::IpNet;

use super::{AddressError, AddressTable};
use crate::model::{AddressKey, Link, LinkAddress};

/// Links whose addresses outlive the agent, as a kernel's do.
#[derive(Clone, Debug, Default)]
pub struct FakeAddresses {
    /// The links.
    pub links: Vec<Link>,
    /// The next so many changes fail.
    pub failures: u32,
    /// Set when a foreign address was about to be touched.
    pub touched_foreign: bool,
}

impl FakeAddresses {
    fn link(&mut self, key: &AddressKey, verb: &'static str) -> Result<&mut Link, AddressError> {
        if self.failures > 0 {
            self.failures -= 1;
            let source = io::Error::from(io::ErrorKind::Interrupted);
            return Err(AddressError::Refused { verb, key: key.clone(), source });
        }
        let missing = AddressError::NoSuchLink { link: key.link.clone() };
        self.links.iter_mut().find(|link| link.name == key.link).ok_or(missing)
    }
}

impl AddressTable for FakeAddresses {
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError> {
        Ok(self.links.clone())
    }

    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<(), AddressError> {
        let foreign = self.link(key, "add")?.has_foreign(key.address);
        self.touched_foreign |= foreign;
        let link = self.link(key, "add")?;
        if !link.addresses.iter().any(|known| known.net.addr() == key.address)
            && let Ok(net) = IpNet::new(key.address, prefix_length)
        {
            link.addresses.push(LinkAddress { net, ours: true, primary: false });
        }
        Ok(())
    }

    async fn remove(&mut self, key: &AddressKey, _prefix_length: u8) -> Result<(), AddressError> {
        let foreign = self.link(key, "remove")?.has_foreign(key.address);
        self.touched_foreign |= foreign;
        self.link(key, "remove")?.addresses.retain(|known| !known.ours || known.net.addr() != key.address);
        Ok(())
    }
}
