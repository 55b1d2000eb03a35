//! The addresses of the kernel's links. It carries out; which address belongs
//! where is decided elsewhere.
//!
//! Tasks: `watch` (multicast messages in, a notification out) and the
//! announcer's (its schedule in, frames out); both end with the table.
//!
//! Invariant: an address is removed only after it was read and found to be
//! llb's in the same call. The kernel has no "remove if tagged", so an address
//! that somebody replaces within those microseconds is the one gap.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::announce::Announcer;
use super::connection::Connection;
use super::state_file::{OwnAddress, StateFile};
use super::{AddressError, AddressTable, message, tag, watch};
use crate::config::AddressTag;
use crate::model::{AddressKey, Link, LinkAddress};

/// The link devices of this host.
#[derive(Debug)]
pub struct NetlinkAddresses {
    links: Vec<String>,
    /// Whether new addresses are marked by the kernel, not by the state file.
    tag_in_kernel: bool,
    connection: Connection,
    state_file: StateFile,
    /// `None` without the right to it.
    announcer: Option<Announcer>,
    /// Aborted with the table.
    _watch: JoinSet<()>,
}

impl NetlinkAddresses {
    /// Opens the table for `links`, in this order; they need not exist yet.
    /// `changed` is notified when one of them or its addresses change, also by
    /// this table. `state_dir` is only written to with tags in the file.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket, or can't do `tag`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(
        links: Vec<String>,
        tag: AddressTag,
        state_dir: PathBuf,
        changed: Arc<Notify>,
    ) -> Result<Self, AddressError> {
        let tag_in_kernel = tag::in_kernel(tag, &rustix::system::uname().release().to_string_lossy())?;
        let announcer = Announcer::open().inspect_err(|error| {
            tracing::warn!(
                %error,
                "VIPs are not announced, neighbours may send to their old place for minutes: \
                 run as root or with CAP_NET_RAW"
            );
        });
        let mut watch = JoinSet::new();
        watch.spawn(watch::run(links.clone(), watch::subscribe().map_err(AddressError::Read)?, changed));
        Ok(Self {
            links,
            tag_in_kernel,
            connection: Connection::open().map_err(AddressError::Read)?,
            // Read with either tag: who changes the tag keeps his addresses.
            state_file: StateFile::open(&state_dir)?,
            announcer: announcer.ok(),
            _watch: watch,
        })
    }

    async fn link(&mut self, name: &str) -> Result<Option<LinkMessage>, AddressError> {
        self.connection.link(name).await.map_err(AddressError::Read)
    }

    /// All addresses on `link`, in the kernel's order.
    async fn read(&mut self, name: &str, link: &LinkMessage) -> Result<Vec<Known>, AddressError> {
        let all = self.connection.addresses().await.map_err(AddressError::Read)?;
        Ok(self.known(name, link, &all))
    }

    fn known(&self, name: &str, link: &LinkMessage, all: &[AddressMessage]) -> Vec<Known> {
        let here = all.iter().filter(|message| message.header.index == link.header.index);
        here.filter_map(|message| {
            let net = message::net(message)?;
            let ours = message::has_tag(message) || self.state_file.contains(name, net);
            Some(Known { net, ours, message: message.clone() })
        })
        .collect()
    }

    async fn add_new(
        &mut self,
        key: &AddressKey,
        net: IpNet,
        link: &LinkMessage,
    ) -> Result<(), AddressError> {
        let own = OwnAddress { link: key.link.clone(), net };
        if !self.tag_in_kernel {
            self.state_file.insert(own.clone()).await?;
        }
        let vip = RouteNetlinkMessage::NewAddress(message::vip(link.header.index, net, self.tag_in_kernel));
        let added = self.connection.change(vip, NLM_F_CREATE | NLM_F_EXCL).await;
        if added.is_ok() {
            if let Some(announcer) = &self.announcer {
                announcer.announce(key, link);
            }
            return Ok(());
        }
        // Somebody was faster and it is his, or it is not there: not ours in either case.
        self.state_file.retain(|known| *known != own).await?;
        match added {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(refused("add", key, error)),
            _ => Ok(()),
        }
    }

    async fn remove_own(&mut self, key: &AddressKey, own: &Known, all: &[Known]) -> Result<(), AddressError> {
        if own.takes_others(all) && !promotes_secondaries(&key.link) {
            return Err(AddressError::TakesOthers { key: key.clone() });
        }
        let removal = RouteNetlinkMessage::DelAddress(own.message.clone());
        match self.connection.change(removal, 0).await {
            // The last two: somebody else removed it, or the whole link.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
                Err(refused("remove", key, error))
            }
            _ => Ok(()),
        }
    }
}

// === impl AddressTable ===

impl AddressTable for NetlinkAddresses {
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError> {
        let mut present = Vec::new();
        for name in self.links.clone() {
            if let Some(link) = self.link(&name).await? {
                present.push((name, link));
            }
        }
        let all = self.connection.addresses().await.map_err(AddressError::Read)?;
        let links: Vec<Link> = present
            .into_iter()
            .map(|(name, link)| {
                let known = self.known(&name, &link, &all);
                Link { name, addresses: known.iter().map(Known::link_address).collect() }
            })
            .collect();
        // A record without its address would claim one that somebody else adds later.
        let on_a_link = |own: &OwnAddress| {
            let mut candidates = links.iter().filter(|link| link.name == own.link);
            candidates.any(|link| link.addresses.iter().any(|address| address.net == own.net))
        };
        if let Err(error) = self.state_file.retain(on_a_link).await {
            tracing::warn!(%error, "an address that llb no longer has is still recorded");
        }
        Ok(links)
    }

    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<(), AddressError> {
        let net = IpNet::new(key.address, prefix_length)
            .map_err(|error| refused("add", key, io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let missing = || AddressError::NoSuchLink { link: key.link.clone() };
        let link = self.link(&key.link).await?.ok_or_else(missing)?;
        let all = self.read(&key.link, &link).await?;
        let same = || all.iter().filter(|known| known.net.addr() == key.address);
        if same().any(|known| !known.ours || known.net == net) {
            return Ok(());
        }
        // One of ours with another prefix length.
        for own in same() {
            self.remove_own(key, own, &all).await?;
        }
        self.add_new(key, net, &link).await
    }

    async fn remove(&mut self, key: &AddressKey, _prefix_length: u8) -> Result<(), AddressError> {
        if let Some(announcer) = &self.announcer {
            announcer.cancel(key);
        }
        // Without its link the address is gone, too.
        if let Some(link) = self.link(&key.link).await? {
            let all = self.read(&key.link, &link).await?;
            for own in all.iter().filter(|known| known.ours && known.net.addr() == key.address) {
                self.remove_own(key, own, &all).await?;
            }
        }
        self.state_file.retain(|own| own.link != key.link || own.net.addr() != key.address).await
    }
}

// === impl Known ===

/// An address as the kernel describes it.
#[derive(Debug)]
struct Known {
    net: IpNet,
    ours: bool,
    message: AddressMessage,
}

impl Known {
    fn link_address(&self) -> LinkAddress {
        LinkAddress { net: self.net, ours: self.ours, primary: message::is_primary(&self.message) }
    }

    /// Whether foreign addresses hang on this one: in IPv4 a primary address
    /// takes the secondary ones of its subnet along, or has one promoted.
    fn takes_others(&self, all: &[Self]) -> bool {
        let hangs_on_this = |other: &Self| {
            !other.ours && message::is_secondary(&other.message) && other.net.trunc() == self.net.trunc()
        };
        !message::is_secondary(&self.message) && all.iter().any(hangs_on_this)
    }
}

/// Whether the kernel makes a secondary address primary when the primary one
/// goes (networking/ip-sysctl): set for all links, or for this one.
fn promotes_secondaries(link: &str) -> bool {
    ["all", link].iter().any(|name| {
        let setting = Path::new("/proc/sys/net/ipv4/conf").join(name).join("promote_secondaries");
        std::fs::read_to_string(setting).is_ok_and(|value| value.trim() != "0")
    })
}

fn refused(verb: &'static str, key: &AddressKey, source: io::Error) -> AddressError {
    let link = key.link.clone();
    match (source.raw_os_error(), key.address) {
        (Some(libc::EPERM), _) => AddressError::NotPermitted { link },
        (Some(libc::ENODEV), _) => AddressError::NoSuchLink { link },
        (Some(libc::EACCES), IpAddr::V6(_)) => AddressError::Ipv6Disabled { link },
        _ => AddressError::Refused { verb, key: key.clone(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_refusals_name_the_way_out() {
        for (address, code, expected) in [
            (
                "192.0.2.5",
                libc::EPERM,
                "no permission to change addresses on eth0: run as root or with CAP_NET_ADMIN",
            ),
            ("192.0.2.5", libc::ENODEV, "link eth0 does not exist; `ip link` lists those that do"),
            (
                "2001:db8::5",
                libc::EACCES,
                "IPv6 is disabled on eth0: `sysctl -w net.ipv6.conf.eth0.disable_ipv6=0` enables it",
            ),
            ("192.0.2.5", libc::ENOBUFS, "cannot add 192.0.2.5 on eth0"),
        ] {
            let key = AddressKey { link: "eth0".to_owned(), address: address.parse().unwrap() };
            let error = refused("add", &key, io::Error::from_raw_os_error(code));
            assert_eq!(error.to_string(), expected);
        }
    }
}
