// SPDX-License-Identifier: Apache-2.0
//! The addresses of the kernel's links. It carries out; which address belongs
//! where is decided elsewhere.
//!
//! Tasks: `watch` (multicast messages in, a notification out) and those of the
//! guard (see there); all end with the table.
//!
//! Invariant: an address is removed only after it was read and found to be
//! llb's, at most `LOOK_LASTS` (see `known`) before. The kernel has no "remove
//! if tagged", so llb's address that somebody removes and adds in his own name
//! within that time is the one gap: it would be removed with llb's. An address
//! that somebody adds within that time stays his: llb's add of it is refused,
//! or adds one of another prefix length beside it.
//! The number of a link is as old at most: an add on one that went away is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::changes::{self, Change, Seen, SeenLink};
use super::error::AddressError;
use super::guard::{Guard, Verdict};
use super::known::{Known, Look, promotes_secondaries, refused};
use super::state_file::{OwnAddress, StateFile};
use super::table::{Addition, AddressTable};
use super::{host, message, tag, watch};
use crate::config::AddressTag;
use crate::model::{AddressKey, Host, Link, Mac};
use crate::netlink::{Connection, LinkDevice};

/// The link devices of this host.
#[derive(Debug)]
pub struct NetlinkAddresses {
    links: Vec<String>,
    /// Whether new addresses are marked by the kernel, not by the state file.
    tag_in_kernel: bool,
    connection: Connection,
    state_file: StateFile,
    /// `None` without the right to it.
    guard: Option<Guard>,
    /// At the last look; `None` before the first one.
    seen: Option<Seen>,
    /// By link name; read again when too old.
    looks: BTreeMap<String, Look>,
    /// The link devices that were there, and the addresses of all other links.
    present: Vec<LinkDevice>,
    other_links: Vec<(String, IpAddr)>,
    /// The addresses of the Kubernetes API.
    api_servers: Vec<IpAddr>,
    /// Aborted with the table.
    _watch: JoinSet<()>,
}

impl NetlinkAddresses {
    /// Opens the table for `links`, in this order; they need not exist yet.
    /// `changed` is notified when one of them or its addresses change, also by
    /// this table, and when a probe ends or a conflict begins or ends. `state_dir` is only written to with tags in the file.
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
        let guard = Guard::open(Arc::clone(&changed)).inspect_err(|error| {
            tracing::warn!(
                %error,
                "VIPs are taken without a look for another owner, and not announced, so neighbours may send to \
                 their old place for minutes: run as root or with CAP_NET_RAW"
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
            guard: guard.ok(),
            seen: None,
            looks: BTreeMap::new(),
            present: Vec::new(),
            other_links: Vec::new(),
            api_servers: Vec::new(),
            _watch: watch,
        })
    }

    /// Adds what [`AddressTable::host`] can't read from the machine: where the Kubernetes API is.
    pub fn set_api_servers(&mut self, addresses: Vec<IpAddr>) {
        self.api_servers = addresses;
    }

    async fn link(&mut self, name: &str) -> Result<Option<LinkDevice>, AddressError> {
        self.connection.link(name).await.map_err(AddressError::Read)
    }

    /// All addresses of the kernel, by the number of their link, in its order.
    async fn read(&mut self) -> Result<BTreeMap<u32, Vec<AddressMessage>>, AddressError> {
        let mut all: BTreeMap<u32, Vec<AddressMessage>> = BTreeMap::new();
        for message in self.connection.addresses().await.map_err(AddressError::Read)? {
            all.entry(message.header.index).or_default().push(message);
        }
        Ok(all)
    }

    fn known(&self, name: &str, index: u32, here: Vec<AddressMessage>) -> Vec<Known> {
        here.into_iter()
            .filter_map(|message| {
                let net = message::net(&message)?;
                let ours = message::has_tag(&message) || self.state_file.contains(name, index, net);
                Some(Known { net, ours, message })
            })
            .collect()
    }

    /// Taken out: what was read of the link, if that is young enough; else it is read.
    async fn look(&mut self, name: &str, index: u32) -> Result<Look, AddressError> {
        match self.looks.remove(name).filter(|look| look.is_current(index)) {
            Some(look) => Ok(look),
            None => self.look_again(name, index).await,
        }
    }

    async fn look_again(&mut self, name: &str, index: u32) -> Result<Look, AddressError> {
        let at = Instant::now();
        let here = self.read().await?.remove(&index).unwrap_or_default();
        Ok(Look::new(index, at, self.known(name, index, here)))
    }

    async fn add_on(
        &mut self,
        look: &mut Look,
        key: &AddressKey,
        net: IpNet,
        index: u32,
    ) -> Result<Addition, AddressError> {
        let same = look.at(key.address);
        if same.iter().any(|known| !known.ours || known.net == net) {
            return Ok(Addition::Done);
        }
        if same.is_empty()
            && let Some(guard) = &self.guard
        {
            match guard.ask(key) {
                Verdict::Free => {}
                Verdict::Pending => return Ok(Addition::Pending),
                Verdict::Taken(mac) => return Err(AddressError::Taken { key: key.clone(), mac }),
            }
        }
        // One of ours with another prefix length.
        if !same.is_empty() {
            self.remove_own(look, key, index).await?;
            self.forget(key);
        }
        self.add_new(look, key, net, index).await?;
        Ok(Addition::Done)
    }

    async fn add_new(
        &mut self,
        look: &mut Look,
        key: &AddressKey,
        net: IpNet,
        index: u32,
    ) -> Result<(), AddressError> {
        let own = OwnAddress { link: key.link.clone(), index, net };
        if !self.tag_in_kernel {
            self.state_file.insert(own.clone()).await?;
        }
        let message = message::vip(index, net, self.tag_in_kernel);
        let vip = RouteNetlinkMessage::NewAddress(message.clone());
        let added = self.connection.change(vip, NLM_F_CREATE | NLM_F_EXCL).await;
        if added.is_ok() {
            look.insert(Known { net, ours: true, message });
            if let Some(guard) = &self.guard {
                guard.added(&mut self.connection, key).await;
            }
            return Ok(());
        }
        look.doubt();
        // Somebody was faster and it is his, or it is not there: not ours in either case.
        self.state_file.retain(|known| *known != own).await?;
        match added {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(refused("add", key, error)),
            _ => Ok(()),
        }
    }

    /// Says what others changed, and has it made up for.
    async fn follow(&mut self, present: &[LinkDevice], links: &[Link]) {
        let seen = present.iter().zip(links).map(|(device, link)| {
            let (mac, running) = (device.neighbour_mac(), device.is_running);
            (link.name.clone(), SeenLink::new(link, device.ifindex, mac, running))
        });
        let seen: Seen = seen.collect();
        let before = self.seen.replace(seen.clone());
        let changes = before.map(|before| changes::between(&before, &seen)).unwrap_or_default();
        for change in &changes {
            tracing::warn!("{change}");
        }
        let Some(guard) = &mut self.guard else { return };
        for change in changes {
            match change {
                Change::Lost { key } => guard.lost(&key),
                Change::Own { link, .. } => guard.recheck(&link),
                // The guard sees those itself.
                Change::Gone { .. }
                | Change::Back { .. }
                | Change::Down { .. }
                | Change::Up { .. }
                | Change::Mac { .. } => {}
            }
        }
        let own = links.iter().flat_map(|link| {
            let ours = link.addresses.iter().filter(|known| known.ours);
            ours.map(|known| AddressKey { link: link.name.clone(), address: known.net.addr() })
        });
        let own: BTreeSet<AddressKey> = own.collect();
        guard.follow(&mut self.connection, present, &own).await;
    }

    /// What is removed here is no change by others.
    fn forget(&mut self, key: &AddressKey) {
        if let Some(link) = self.seen.as_mut().and_then(|seen| seen.get_mut(&key.link)) {
            link.forget(key.address);
        }
    }

    async fn remove_own(
        &mut self,
        look: &mut Look,
        key: &AddressKey,
        index: u32,
    ) -> Result<(), AddressError> {
        let may_take_others = |own: &Known| own.ours && own.may_take_others();
        if look.at(key.address).iter().any(may_take_others) && !promotes_secondaries(&key.link) {
            // Too much hangs on it for what was read a while ago.
            *look = self.look_again(&key.link, index).await?;
            if look.at(key.address).iter().any(|own| own.ours && look.hangs_on(own)) {
                return Err(AddressError::TakesOthers { key: key.clone() });
            }
        }
        for own in look.take_own(key.address) {
            let removal = RouteNetlinkMessage::DelAddress(own.message);
            let Err(error) = self.connection.change(removal, 0).await else { continue };
            look.doubt();
            // The last two: somebody else removed it, or the whole link.
            if !matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) {
                return Err(refused("remove", key, error));
            }
        }
        Ok(())
    }
}

// === impl AddressTable ===

impl AddressTable for NetlinkAddresses {
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError> {
        let mut present = Vec::new();
        for name in self.links.clone() {
            if let Some(link) = self.link(&name).await? {
                // An alternative name is found, too: the name is the configured one.
                present.push(LinkDevice { name, ..link });
            }
        }
        let at = Instant::now();
        let mut all = self.read().await?;
        let nets = |(&index, here): (&u32, &Vec<AddressMessage>)| -> Vec<(u32, IpNet)> {
            here.iter().filter_map(|message| Some((index, message::net(message)?))).collect()
        };
        let on_links: BTreeSet<(u32, IpNet)> = all.iter().flat_map(nets).collect();
        self.looks.clear();
        let mut links = Vec::new();
        for LinkDevice { name, ifindex, .. } in &present {
            let index = *ifindex;
            let known = self.known(name, index, all.remove(&index).unwrap_or_default());
            links.push(Link {
                name: name.clone(),
                addresses: known.iter().map(Known::link_address).collect(),
            });
            self.looks.insert(name.clone(), Look::new(index, at, known));
        }
        // A record without its address would claim one that somebody else adds
        // later. A link that was renamed keeps its number and its addresses.
        let on_its_link = |own: &OwnAddress| on_links.contains(&(own.index, own.net));
        if let Err(error) = self.state_file.retain(on_its_link).await {
            tracing::warn!(%error, "an address that llb no longer has is still recorded");
        }
        self.follow(&present, &links).await;
        self.other_links = host::addresses_by_link(&all);
        self.present = present;
        Ok(links)
    }

    async fn host(&mut self) -> Result<Host, AddressError> {
        host::read(&mut self.connection, &self.present, &self.other_links, &self.api_servers)
            .await
            .map_err(AddressError::Read)
    }

    /// One write for all of them, where the file says whose an address is.
    async fn prepare(&mut self, coming: &[(&AddressKey, u8)], most: usize) {
        if self.tag_in_kernel {
            return;
        }
        let is_free = |key: &AddressKey| self.guard.as_ref().is_none_or(|guard| guard.is_free(key));
        let own = |&(key, prefix_length): &(&AddressKey, u8)| {
            let look = self.looks.get(&key.link)?;
            let index = look.current_index()?;
            let net = IpNet::new(key.address, prefix_length).ok()?;
            let is_new = look.at(key.address).is_empty() && is_free(key);
            is_new.then(|| OwnAddress { link: key.link.clone(), index, net })
        };
        let own: Vec<OwnAddress> = coming.iter().filter_map(own).take(most).collect();
        if let Err(error) = self.state_file.write_ahead(own).await {
            tracing::debug!(%error, "each address is recorded for itself");
        }
    }

    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<Addition, AddressError> {
        let net = IpNet::new(key.address, prefix_length)
            .map_err(|error| refused("add", key, io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let missing = || AddressError::NoSuchLink { link: key.link.clone() };
        let index = match self.looks.get(&key.link).and_then(Look::current_index) {
            Some(index) => index,
            None => self.link(&key.link).await?.ok_or_else(missing)?.ifindex,
        };
        let mut look = self.look(&key.link, index).await?;
        let added = self.add_on(&mut look, key, net, index).await;
        self.looks.insert(key.link.clone(), look);
        added
    }

    async fn remove(&mut self, key: &AddressKey, _prefix_length: u8) -> Result<(), AddressError> {
        if let Some(guard) = &self.guard {
            guard.lost(key);
        }
        self.forget(key);
        // Without its link the address is gone, too.
        if let Some(link) = self.link(&key.link).await? {
            let index = link.ifindex;
            let mut look = self.look(&key.link, index).await?;
            let removed = self.remove_own(&mut look, key, index).await;
            self.looks.insert(key.link.clone(), look);
            removed?;
        }
        self.state_file.retain(|own| own.link != key.link || own.net.addr() != key.address).await
    }

    fn conflicts(&self) -> BTreeMap<AddressKey, Mac> {
        self.guard.as_ref().map(Guard::conflicts).unwrap_or_default()
    }
}
