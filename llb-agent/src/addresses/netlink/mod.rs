// SPDX-License-Identifier: Apache-2.0
//! The addresses on the kernel's links. It carries out changes; which address
//! belongs where is decided elsewhere.
//!
//! Tasks: `watch` (multicast messages in, a notification out), and those of the
//! guard (see there). All end when the table is dropped.
//!
//! Invariant: an address is removed only if it was read at most
//! `READING_LIFETIME` (see `reading`) ago and was llb's. The kernel has no
//! "remove if tagged", which leaves one gap: if, within that time, someone else
//! removes llb's address and adds the same one, llb removes theirs. If someone
//! else adds an address within that time, it stays theirs: the kernel refuses
//! llb's own, or keeps it beside theirs if its prefix length differs. The number
//! of a link may be that old, too: the kernel refuses to add an address on a link
//! that went away.

mod group;
mod routed;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::agent_lock::AgentLocks;
use super::changes::{self, Change, Seen};
use super::error::AddressError;
use super::guard::Guard;
use super::host::HostReader;
use super::link_devices::LinkDevices;
use super::reading::{KernelAddress, Reading};
use super::state_file::{OwnAddress, StateFile};
use super::table::{Addition, AddressTable};
use super::{host, message, sysctl, tag, watch};
use crate::clock;
use crate::config::AddressTag;
use crate::error_chain::ErrorChain;
use crate::model::{AddressKey, Host, Link, Mac, Problem};
use crate::netlink::{Connection, LinkDevice};

/// The link devices of this host.
#[derive(Debug)]
pub struct NetlinkAddresses {
    links: LinkDevices,
    /// Whether the kernel marks new addresses as llb's; otherwise the state file
    /// records them.
    tag_in_kernel: bool,
    connection: Connection,
    state_file: StateFile,
    /// `None` if CAP_NET_RAW is missing.
    guard: Option<Guard>,
    /// The links when they were last observed; `None` before that.
    seen: Option<Seen>,
    /// By link name.
    readings: BTreeMap<String, Reading>,
    host: HostReader,
    /// The VIPs that the group has published; `None`: this machine is in no group.
    trusted: Option<BTreeSet<IpAddr>>,
    vip_link_problem: Option<Problem>,
    /// Aborted with the table.
    watch: JoinSet<()>,
}

impl NetlinkAddresses {
    /// Opens the table for `links`, in this order; they need not exist yet.
    /// `changed` is notified when one of them or its addresses change (also by
    /// this table), when probes end, and when a conflict begins or ends.
    /// `state_dir` is written to only if the state file records addresses.
    ///
    /// # Errors
    /// The kernel does not provide a netlink socket, or does not support `tag`.
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
                error = %ErrorChain(error),
                "cannot open packet sockets, which needs CAP_NET_RAW or root: VIPs are added without checking \
                 that no other host has them, and they are not announced, so neighbours may send to their old \
                 place for minutes"
            );
        });
        let links = LinkDevices::new(links, Arc::clone(&changed));
        let mut watch = JoinSet::new();
        watch.spawn(watch::run(
            links.names().to_vec(),
            watch::subscribe().map_err(AddressError::Read)?,
            changed,
        ));
        Ok(Self {
            links,
            tag_in_kernel,
            connection: Connection::open().map_err(AddressError::Read)?,
            // Read with either tag, so that addresses stay llb's when the tag is changed.
            state_file: StateFile::open(&state_dir)?,
            guard: guard.ok(),
            seen: None,
            readings: BTreeMap::new(),
            host: HostReader::new(),
            trusted: None,
            vip_link_problem: None,
            watch,
        })
    }

    /// Sets the addresses of the Kubernetes API, which the machine does not tell.
    pub fn set_api_servers(&mut self, addresses: host::ApiServers) {
        self.host.api_servers = addresses;
    }

    /// From now on changes only links of which it has the lock, and takes that of a new link.
    pub fn keep_others_off(&mut self, locks: AgentLocks) {
        self.links.keep_others_off(locks);
    }

    /// All addresses that the kernel has, by the number of their link, in its order.
    async fn read(&mut self) -> Result<BTreeMap<u32, Vec<AddressMessage>>, AddressError> {
        let mut all: BTreeMap<u32, Vec<AddressMessage>> = BTreeMap::new();
        for message in self.connection.addresses().await.map_err(AddressError::Read)? {
            all.entry(message.header.index).or_default().push(message);
        }
        Ok(all)
    }

    /// The addresses of one link, with who added them.
    fn describe(&self, name: &str, index: u32, messages: Vec<AddressMessage>) -> Vec<KernelAddress> {
        messages
            .into_iter()
            .filter_map(|message| {
                let net = message::net(&message)?;
                let ours = message::has_tag(&message) || self.state_file.contains(name, index, net);
                Some(KernelAddress { net, ours, message })
            })
            .collect()
    }

    /// Takes the reading of a link out of the table; reads again if it is too old.
    async fn take_reading(&mut self, name: &str, index: u32) -> Result<Reading, AddressError> {
        let now = clock::now_std();
        match self.readings.remove(name).filter(|reading| reading.is_current(index, now)) {
            Some(reading) => Ok(reading),
            None => self.read_again(name, index).await,
        }
    }

    async fn read_again(&mut self, name: &str, index: u32) -> Result<Reading, AddressError> {
        let at = clock::now_std();
        let messages = self.read().await?.remove(&index).unwrap_or_default();
        Ok(Reading::new(index, at, self.describe(name, index, messages)))
    }

    async fn add_on(
        &mut self,
        reading: &mut Reading,
        key: &AddressKey,
        net: IpNet,
        index: u32,
    ) -> Result<Addition, AddressError> {
        let same = reading.with_address(key.address);
        if same.iter().any(|known| !known.ours || known.net == net) {
            return Ok(Addition::Done);
        }
        if same.is_empty() && self.ask(key)? == Addition::Pending {
            return Ok(Addition::Pending);
        }
        // It is llb's own, with another prefix length.
        if !same.is_empty() {
            self.remove_own(reading, key, index).await?;
            self.forget(key);
        }
        self.add_new(reading, key, net, index).await?;
        Ok(Addition::Done)
    }

    async fn add_new(
        &mut self,
        reading: &mut Reading,
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
            reading.insert(KernelAddress { net, ours: true, message });
            if let Some(guard) = &self.guard {
                guard.added(&mut self.connection, key).await;
            }
            return Ok(());
        }
        reading.invalidate();
        // Someone else added it first, or it was not added: not llb's in either case.
        self.state_file.retain(|known| *known != own).await?;
        match added {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                Err(AddressError::refused("add", key, error))
            }
            _ => Ok(()),
        }
    }

    /// Logs what others changed since the last observation, and tells the guard.
    async fn follow(&mut self, present: &[LinkDevice], links: &[Link]) {
        let changes = changes::follow(&mut self.seen, present, links, self.trusted.is_some());
        let Some(guard) = &mut self.guard else { return };
        for change in changes {
            match change {
                Change::Lost { key } => guard.lost(&key),
                Change::Own { link, .. } => guard.recheck(&link),
                // The guard notices these itself.
                Change::Gone { .. }
                | Change::Back { .. }
                | Change::Down { .. }
                | Change::Up { .. }
                | Change::Mac { .. } => {}
            }
        }
        let (present, own) = Self::with_neighbours(present, links);
        guard.follow(&mut self.connection, &present, &own).await;
    }

    /// A removal by llb itself must not be reported as one by others.
    fn forget(&mut self, key: &AddressKey) {
        if let Some(link) = self.seen.as_mut().and_then(|seen| seen.get_mut(&key.link)) {
            link.forget(key.address);
        }
    }

    async fn remove_own(
        &mut self,
        reading: &mut Reading,
        key: &AddressKey,
        index: u32,
    ) -> Result<(), AddressError> {
        let may_have_dependents = |own: &KernelAddress| own.ours && own.may_have_dependents();
        if reading.with_address(key.address).iter().any(may_have_dependents)
            && !sysctl::promotes_secondaries(&key.link)
        {
            // Foreign addresses are at stake, so do not rely on an older reading.
            *reading = self.read_again(&key.link, index).await?;
            let mut own = reading.with_address(key.address).iter().filter(|own| own.ours);
            if own.any(|own| reading.has_foreign_dependents(own)) {
                return Err(AddressError::TakesOthers { key: key.clone() });
            }
        }
        for own in reading.take_own(key.address) {
            let removal = RouteNetlinkMessage::DelAddress(own.message);
            let Err(error) = self.connection.change(removal, 0).await else { continue };
            reading.invalidate();
            // Someone else removed the address, or the whole link.
            if !matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) {
                return Err(AddressError::refused("remove", key, error));
            }
        }
        Ok(())
    }
}

// === impl AddressTable ===

impl AddressTable for NetlinkAddresses {
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError> {
        let present = self.links.present(&mut self.connection).await?;
        let at = clock::now_std();
        let mut all = self.read().await?;
        let nets = |(&index, messages): (&u32, &Vec<AddressMessage>)| -> Vec<(u32, IpNet)> {
            messages.iter().filter_map(|message| Some((index, message::net(message)?))).collect()
        };
        let on_links: BTreeSet<(u32, IpNet)> = all.iter().flat_map(nets).collect();
        self.host.see(&all, &present);
        self.look_at_links(&present);
        self.readings.clear();
        let mut links = Vec::new();
        for LinkDevice { name, ifindex, .. } in &present {
            let addresses = self.describe(name, *ifindex, all.remove(ifindex).unwrap_or_default());
            links.push(Link {
                name: name.clone(),
                addresses: addresses.iter().map(KernelAddress::link_address).collect(),
            });
            self.readings.insert(name.clone(), Reading::new(*ifindex, at, addresses));
        }
        // A record whose address is gone would claim the same address if someone
        // else adds it later. A renamed link keeps its number and its addresses.
        let is_on_its_link = |own: &OwnAddress| on_links.contains(&(own.index, own.net));
        if let Err(error) = self.state_file.retain(is_on_its_link).await {
            tracing::warn!(
                error = %ErrorChain(&error),
                "cannot erase the record of an address that is no longer on its link"
            );
        }
        self.follow(&present, &links).await;
        Ok(links)
    }

    async fn host(&mut self, pods: BTreeSet<IpAddr>) -> Result<Host, AddressError> {
        self.host.read(&mut self.connection, pods).await.map_err(AddressError::Read)
    }

    /// Records all coming addresses by one write to the state file, if it is used.
    async fn prepare(&mut self, coming: &[(&AddressKey, u8)], most: usize) {
        if self.tag_in_kernel {
            return;
        }
        let now = clock::now_std();
        let own = |&(key, prefix_length): &(&AddressKey, u8)| {
            let reading = self.readings.get(&key.link)?;
            let index = reading.current_index(now)?;
            let net = IpNet::new(key.address, prefix_length).ok()?;
            let is_new = reading.with_address(key.address).is_empty() && self.is_free(key);
            is_new.then(|| OwnAddress { link: key.link.clone(), index, net })
        };
        let own: Vec<OwnAddress> = coming.iter().filter_map(own).take(most).collect();
        if let Err(error) = self.state_file.write_ahead(own).await {
            tracing::debug!(
                error = %ErrorChain(&error),
                "cannot record the coming addresses at once; each is recorded when it is added"
            );
        }
    }

    async fn probe(&mut self, key: &AddressKey) -> Result<Addition, AddressError> {
        self.ask(key)
    }

    fn is_free(&self, key: &AddressKey) -> bool {
        self.is_trusted(key) || self.guard.as_ref().is_none_or(|guard| guard.is_free(key))
    }

    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<Addition, AddressError> {
        let net = IpNet::new(key.address, prefix_length).map_err(|error| {
            AddressError::refused("add", key, io::Error::new(io::ErrorKind::InvalidInput, error))
        })?;
        let now = clock::now_std();
        let index = match self.readings.get(&key.link).and_then(|reading| reading.current_index(now)) {
            Some(index) => index,
            None => self.index_of(&key.link).await?,
        };
        let mut reading = self.take_reading(&key.link, index).await?;
        let added = self.add_on(&mut reading, key, net, index).await;
        self.readings.insert(key.link.clone(), reading);
        added
    }

    async fn remove(&mut self, key: &AddressKey, _prefix_length: u8) -> Result<(), AddressError> {
        if let Some(guard) = &self.guard {
            guard.lost(key);
        }
        self.forget(key);
        // If the link is gone, so is the address.
        if let Some(link) = self.links.find(&mut self.connection, &key.link).await? {
            let index = link.ifindex;
            let mut reading = self.take_reading(&key.link, index).await?;
            let removed = self.remove_own(&mut reading, key, index).await;
            self.readings.insert(key.link.clone(), reading);
            removed?;
        }
        self.state_file.retain(|own| own.link != key.link || own.net.addr() != key.address).await
    }

    fn trust(&mut self, vips: BTreeSet<IpAddr>) {
        if let Some(trusted) = &mut self.trusted {
            *trusted = vips;
        }
    }

    fn conflicts(&self) -> BTreeMap<AddressKey, Mac> {
        self.guard.as_ref().map(Guard::conflicts).unwrap_or_default()
    }

    async fn leave(&mut self) -> Result<(), AddressError> {
        self.remove_vip_link().await
    }

    fn problems(&self) -> Vec<Problem> {
        self.links.problems().into_iter().chain(self.vip_link_problem.clone()).collect()
    }
}
