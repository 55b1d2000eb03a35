// SPDX-License-Identifier: Apache-2.0
//! The packet plane as its owner sees it: frontends come and go by their
//! rules. How each step is done is in the files beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llb_common::address::Address;
use llb_common::backend::{ACTIVE, BackendEntry, DRAINING};
use llb_common::counters::LinkCounters;
use llb_common::settings::{FLOW_BUDGET, SNAT_ADDRESSES, Settings};
use llb_common::time::{Tick, tick};
use prometheus_client::registry::Registry;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::book::{Book, Gate, NoRoom};
use super::links::LinkFacts;
use super::loader::{LinkLocks, Loaded, PacketLink, load};
use super::maps::{Capacities, Maps, memory_bytes};
use super::pins::{PinFolder, SHARED, forget_empty, provide_bpffs};
use super::reach::{OwnLink, Reach};
use super::sweep::FlowCounts;
use super::{PacketError, PacketSetup, answers, keeper, metrics};
use crate::config::PortRange;
use crate::dataplane::BackendStates;
use crate::kernel::{Release, TCX_SINCE};
use crate::model::{
    Backend, BackendState, BackendStatus, Frontend, FrontendStatus, LinkPlane, Mode, Phase, Placement,
    PlaneKind, Protocol, Rule, ServiceName,
};
use crate::netlink::Connection;

/// For a drain without a limit.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The plane can't serve a rule; another one may.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// What keeps it from that.
    #[error("{0}")]
    Unsuitable(String),
    /// A limit.
    #[error(transparent)]
    NoRoom(#[from] Limit),
    /// The kernel said no.
    #[error("a map of the packet plane can't be written: {0}")]
    Kernel(#[from] io::Error),
}

/// A named limit of the maps that is reached.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Limit(NoRoom);

/// Programs at links, and what they forward by. Dropping it leaves them there.
#[derive(Debug)]
pub struct PacketPlane {
    pub(super) shared: Arc<Shared>,
    reach: Arc<tokio::sync::Mutex<Reach>>,
    /// Keeper and answers.
    tasks: [JoinHandle<()>; 2],
}

/// What plane, keeper and metrics have in common.
#[derive(Debug)]
pub(super) struct Shared {
    links: Mutex<Vec<PacketLink>>,
    pub(super) folder: PinFolder,
    state: Mutex<State>,
    pub(super) capacities: Capacities,
    pub(super) setup: PacketSetup,
    /// Told when `observe` has something new to say.
    pub(super) changed: Arc<Notify>,
    /// Wakes the keeper.
    pub(super) hurry: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) book: Book,
    pub(super) maps: Arc<Maps>,
    pub(super) settings: Settings,
    /// From the last sweep.
    pub(super) flows: FlowCounts,
    /// When frontends that end are gone at the latest.
    pub(super) drains: BTreeMap<Frontend, Instant>,
    /// Why a frontend is not in the mode that its rule asks for.
    notes: BTreeMap<Frontend, String>,
}

impl PacketPlane {
    /// Puts a program on each link, and takes over what a predecessor has
    /// pinned. `locks` are those that a living one gave. `changed` is notified
    /// whenever [`PacketPlane::observe`] would give a new answer without a call.
    ///
    /// # Errors
    /// A link that no program can be put on; what forwarded before still does.
    pub async fn open(
        setup: PacketSetup,
        mut locks: LinkLocks,
        changed: Arc<Notify>,
    ) -> Result<Self, PacketError> {
        if let Some(running) = Release::running().filter(|running| *running < TCX_SINCE) {
            return Err(PacketError::KernelTooOld { running });
        }
        provide_bpffs(&setup.bpf_dir)?;
        let failed = |source| PacketError::Netlink { source };
        let mut connection = Connection::open().map_err(failed)?;
        let all = LinkFacts::read(&mut connection).await.map_err(failed)?;
        let facts: Vec<LinkFacts> = setup
            .links
            .iter()
            .map(|name| {
                let found = all.iter().find(|link| link.name == *name).cloned();
                found.ok_or_else(|| PacketError::NoSuchLink { link: name.clone() })
            })
            .collect::<Result<_, _>>()?;
        let capacities = Capacities::new(&setup.config, memory_bytes());
        let Loaded { links, maps, notices, shared: folder } = load(&setup, &facts, capacities, &mut locks)?;
        let failed = |error| PacketError::pin("use the maps in", folder.path(), error);
        let restored = maps.restore().map_err(failed)?;
        let book = Book::new((capacities.backends, capacities.chunks), restored, |table| maps.slots(table));
        let settings = settings(&setup, &maps).map_err(failed)?;
        maps.settings.insert(&0, &settings).map_err(failed)?;
        let own = own_links(&facts);
        for link in &links {
            link.switch_on(&maps.links).map_err(failed)?;
            tracing::info!(link = link.facts.name, hook = %link.hook, why = link.why, "packet plane");
        }
        let state = State {
            book,
            maps: Arc::new(maps),
            settings,
            flows: FlowCounts::default(),
            drains: BTreeMap::new(),
            notes: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            links: Mutex::new(links),
            folder,
            state: Mutex::new(state),
            capacities,
            setup,
            changed,
            hurry: Notify::new(),
        });
        let reach = Arc::new(tokio::sync::Mutex::new(Reach::new(connection, own)));
        let keeper = tokio::spawn(keeper::run(Arc::clone(&shared), Arc::clone(&reach)));
        let answers = tokio::spawn(answers::run(notices));
        Ok(Self { shared, reach, tasks: [keeper, answers] })
    }

    /// Serves `frontend` by `rule` from now on; gives the mode in which.
    /// `is_relayed`: a relay has it too, and its connections are left alone.
    ///
    /// # Errors
    /// It can't; what was there goes on as it was.
    pub async fn upsert(
        &self,
        frontend: Frontend,
        rule: &Arc<Rule>,
        is_relayed: bool,
    ) -> Result<Mode, Refusal> {
        let addresses: BTreeSet<IpAddr> = rule.backends.keys().map(|backend| backend.address.ip()).collect();
        let mut reach = self.reach.lock().await;
        reach.look_up(&addresses).await?;
        let mut note = None;
        let mut mode = rule.mode;
        if mode == Mode::Dsr {
            note = reach.refusal(rule, Mode::Dsr).map(|why| format!("not dsr: {why}"));
            mode = if note.is_some() { Mode::Nat } else { Mode::Dsr };
        }
        if let Some(why) = reach.refusal(rule, mode) {
            return Err(Refusal::Unsuitable(why));
        }
        let gate =
            if is_relayed && frontend.protocol == Protocol::Tcp { Gate::OpeningsOnly } else { Gate::Open };
        let mut state = self.shared.state();
        state.add_sources(&reach)?;
        state.follow(frontend, rule, (mode, gate), &reach).map_err(|failure| match failure {
            Failure::NoRoom(limit) => Refusal::NoRoom(Limit(limit)),
            Failure::Kernel(error) => Refusal::Kernel(error),
        })?;
        state.drains.remove(&frontend);
        match note {
            Some(note) => drop(state.notes.insert(frontend, note)),
            None => drop(state.notes.remove(&frontend)),
        }
        Ok(mode)
    }

    /// The relay has no connections of this frontend any more.
    pub fn take_all(&self, frontend: &Frontend) {
        let mut state = self.shared.state();
        let entry = state.book.set_gate(frontend, Gate::Open);
        if let Err(error) = state.maps.apply(entry) {
            tracing::warn!(%frontend, %error, "cannot take all packets");
        }
    }

    /// Takes no new flows. TCP flows that are open may go on until the drain
    /// time-out; then, or with the last one, the frontend is gone.
    pub fn remove(&self, frontend: &Frontend) {
        self.end(frontend, self.shared.setup.drain_timeout);
    }

    /// As [`PacketPlane::remove`], for another plane that takes what begins from
    /// now on: TCP flows that are open go on until they end.
    pub fn give_away(&self, frontend: &Frontend) {
        self.end(frontend, AS_LONG_AS_IT_TAKES);
    }

    fn end(&self, frontend: &Frontend, drain: Duration) {
        let drain = if frontend.protocol == Protocol::Udp { Duration::ZERO } else { drain };
        let until = Instant::now() + drain;
        let mut state = self.shared.state();
        let is_there = state.book.id(frontend).is_some();
        if !is_there || state.drains.get(frontend).is_some_and(|before| *before <= until) {
            return;
        }
        state.drains.insert(*frontend, until);
        let writes = state.book.set_gate(frontend, Gate::KnownFlowsOnly);
        if let Err(error) = state.maps.apply(writes) {
            tracing::warn!(%frontend, %error, "cannot end the frontend");
        }
        drop(state);
        self.shared.hurry.notify_one();
    }

    /// Ends drains now.
    pub fn abort(&self) {
        let mut state = self.shared.state();
        let now = Instant::now();
        state.drains.values_mut().for_each(|until| *until = now);
        drop(state);
        self.shared.hurry.notify_one();
    }

    /// Every frontend in the maps, draining ones included; and those whose relay
    /// is waited for.
    pub fn observe(&self) -> BTreeMap<Frontend, (FrontendStatus, bool)> {
        let state = self.shared.state();
        let hooks: BTreeSet<String> = self.shared.links().iter().map(|link| link.hook.to_string()).collect();
        let hooks = hooks.into_iter().collect::<Vec<_>>().join(", ");
        let status = |(frontend, rule, mode, gate): (&Frontend, Option<&Arc<Rule>>, Mode, Gate)| {
            let why = match state.notes.get(frontend) {
                Some(note) => format!("at {hooks}; {note}"),
                None => format!("at {hooks}"),
            };
            let status = FrontendStatus {
                rule: rule.cloned().unwrap_or_else(restored_rule),
                phase: if gate == Gate::KnownFlowsOnly { Phase::Draining } else { Phase::Serving },
                placement: Placement { plane: PlaneKind::Packet, mode: Some(mode), why },
            };
            (*frontend, (status, gate == Gate::OpeningsOnly))
        };
        state.book.frontends().map(status).collect()
    }

    /// Whether `frontend` is in the maps.
    pub fn has(&self, frontend: &Frontend) -> bool {
        self.shared.state().book.id(frontend).is_some()
    }

    /// Each backend of a frontend with its state and flows, for people.
    pub fn backend_states(&self) -> BackendStates {
        let shared = Arc::clone(&self.shared);
        BackendStates::new(move |frontend| {
            let state = shared.state();
            let status = |(backend, entry): (&Backend, &BackendEntry)| BackendStatus {
                backend: *backend,
                state: match entry.state {
                    ACTIVE => BackendState::Active,
                    DRAINING => BackendState::Draining,
                    _ => BackendState::Unreachable,
                },
                flows: Some(state.flows.all.get(&entry.id).copied().unwrap_or(0).into()),
            };
            state.book.backends(frontend).map(status).collect()
        })
    }

    /// The links and their hooks.
    pub fn links(&self) -> Vec<LinkPlane> {
        let state = |link: &PacketLink| LinkPlane {
            link: link.facts.name.clone(),
            hook: link.hook.to_string(),
            why: link.why.clone(),
        };
        self.shared.links().iter().map(state).collect()
    }

    /// Frames that came in on each link since its program was first there. A
    /// link whose map can't be read is left out.
    pub fn counters(&self) -> Vec<(String, LinkCounters)> {
        self.shared.counters()
    }

    /// Shows the counts as metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        metrics::register(&self.shared, registry);
    }

    /// The locks, for the agent that takes over. When this one is dropped then,
    /// programs, maps and locks stay.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn locks(&self) -> io::Result<LinkLocks> {
        let links = self.shared.links();
        let links = links.iter().map(|link| Ok((link.facts.name.clone(), link.folder.lock()?)));
        let shared = std::iter::once(self.shared.folder.lock().map(|lock| (SHARED.to_owned(), lock)));
        links.chain(shared).collect()
    }

    /// Takes the programs off their links and forgets all flows: the end that is
    /// wanted, unlike a crash.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn detach(&self) -> Result<(), PacketError> {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.links().iter().try_for_each(|link| link.folder.remove())?;
        self.shared.folder.remove()?;
        forget_empty(&self.shared.setup.bpf_dir);
        Ok(())
    }
}

impl Drop for PacketPlane {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    pub(super) fn links(&self) -> MutexGuard<'_, Vec<PacketLink>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counters(&self) -> Vec<(String, LinkCounters)> {
        let read = |link: &PacketLink| Some((link.facts.name.clone(), link.counters()?));
        self.links().iter().filter_map(read).collect()
    }
}

pub(super) enum Failure {
    NoRoom(NoRoom),
    Kernel(io::Error),
}

impl State {
    /// Whether a frontend ends soon, so that it is worth a look often.
    pub(super) fn is_draining(&self) -> bool {
        let soon = Instant::now() + AS_LONG_AS_IT_TAKES / 2;
        self.drains.values().any(|until| *until < soon)
    }

    /// Brings the maps to what `rule` and the world ask for.
    pub(super) fn follow(
        &mut self,
        frontend: Frontend,
        rule: &Arc<Rule>,
        (mode, gate): (Mode, Gate),
        reach: &Reach,
    ) -> Result<(), Failure> {
        let is_new = self.book.id(&frontend).is_none();
        let writes = self
            .book
            .upsert(frontend, rule, (mode, gate), |address| reach.next_hop(address), now())
            .map_err(Failure::NoRoom)?;
        let result = self.maps.apply(writes);
        if result.is_err() && is_new {
            // As far as that goes; the kernel's word is what counts.
            let writes = self.book.remove(&frontend, now());
            let _ = self.maps.apply(writes);
        }
        result.map_err(Failure::Kernel)
    }

    /// Replies to these addresses are looked at from now on.
    pub(super) fn add_sources(&mut self, reach: &Reach) -> io::Result<()> {
        let mut settings = self.settings;
        let mut known: Vec<Address> =
            settings.snat.iter().copied().filter(|address| !address.is_unspecified()).collect();
        for source in reach.sources().into_iter().map(Address::from) {
            if !known.contains(&source) {
                known.push(source);
            }
        }
        // Those that nothing is sent from any more make room, oldest first.
        let excess = known.len().saturating_sub(SNAT_ADDRESSES);
        known.drain(..excess);
        settings.snat = std::array::from_fn(|n| known.get(n).copied().unwrap_or_default());
        if settings != self.settings {
            // What `llb-agent trace` has set meanwhile stays.
            let current = self.maps.settings.get(&0)?.unwrap_or(settings);
            let written =
                Settings { trace_client: current.trace_client, trace_mask: current.trace_mask, ..settings };
            self.maps.settings.insert(&0, &written)?;
            self.settings = settings;
        }
        Ok(())
    }
}

/// Links by number.
pub(super) fn own_links(facts: &[LinkFacts]) -> BTreeMap<u32, OwnLink> {
    facts.iter().map(|link| (link.ifindex, OwnLink { mac: link.mac, mtu: link.mtu })).collect()
}

/// The time that flow entries have.
pub(super) fn now() -> Tick {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    tick(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// A frontend of which only the maps are known: until its Service is seen.
fn restored_rule() -> Arc<Rule> {
    Arc::new(Rule::new(ServiceName::new("", ""), BTreeMap::new(), crate::model::Terms::default()))
}

fn settings(setup: &PacketSetup, maps: &Maps) -> io::Result<Settings> {
    let old = maps.settings.get(&0)?.unwrap_or_default();
    let ports = setup.config.snat_ports.unwrap_or_else(free_ports);
    Ok(Settings {
        snat: old.snat,
        snat_first_port: ports.first,
        snat_last_port: ports.last,
        flow_budget: FLOW_BUDGET,
        ..Settings::default()
    })
}

/// Ports that the kernel gives to no socket by itself: those below
/// `net.ipv4.ip_local_port_range`, or above it where that is more.
fn free_ports() -> PortRange {
    const LINUX: (u16, u16) = (32_768, 60_999);
    const UNPRIVILEGED: u16 = 1024;
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    let (first, last) = match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        _ => LINUX,
    };
    free_beside((first, last), UNPRIVILEGED)
}

fn free_beside((first, last): (u16, u16), lowest: u16) -> PortRange {
    let below = first.saturating_sub(lowest);
    let above = u16::MAX - last;
    if below == 0 && above == 0 {
        // All are the host's. Programs still take none that a socket has now.
        return PortRange { first: lowest, last: u16::MAX };
    }
    if below >= above {
        PortRange { first: lowest, last: first - 1 }
    } else {
        PortRange { first: last + 1, last: u16::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports_are_those_that_the_host_leaves() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(free_beside((32_768, 60_999), 1024), range(1024, 32_767));
        assert_eq!(free_beside((1024, 40_000), 1024), range(40_001, 65_535));
        assert_eq!(free_beside((1024, 65_535), 1024), range(1024, 65_535));
    }
}
