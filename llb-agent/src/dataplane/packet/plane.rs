// SPDX-License-Identifier: Apache-2.0
//! The packet plane as its owner sees it: frontends come and go by their
//! rules. How each step is done is in the files beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llb_common::backend::{ACTIVE, BackendEntry, DRAINING};
use llb_common::counters::LinkCounters;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::PacketError;
use super::image::{Gate, MapImage, NoRoom};
use super::link_facts::LinkFacts;
use super::loader::{LinkLocks, Loaded, load};
use super::map_sizes::{Capacities, memory_bytes};
use super::next_hops::{NextHops, own_links};
use super::packet_link::PacketLink;
use super::pins::{SHARED, forget_empty, provide_bpffs};
use super::settings::settings;
use super::setup::PacketSetup;
use super::shared::Shared;
use super::state::{AS_LONG_AS_IT_TAKES, Failure, State};
use super::sweep::FlowCounts;
use super::{answers, metrics, upkeep};
use crate::dataplane::BackendStates;
use crate::kernel::{Release, TCX_SINCE};
use crate::model::{
    Backend, BackendState, BackendStatus, Frontend, FrontendStatus, LinkPlane, Mode, Phase, Placement,
    PlaneKind, Protocol, Rule, ServiceName,
};
use crate::netlink::Connection;

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
    next_hops: Arc<tokio::sync::Mutex<NextHops>>,
    /// Keeper and answers.
    tasks: [JoinHandle<()>; 2],
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
        let image =
            MapImage::new((capacities.backends, capacities.chunks), restored, |table| maps.slots(table));
        let settings = settings(&setup, &maps).map_err(failed)?;
        maps.settings.insert(&0, &settings).map_err(failed)?;
        let own = own_links(&facts);
        for link in &links {
            link.switch_on(&maps.links).map_err(failed)?;
            tracing::info!(link = link.facts.name, hook = %link.hook, why = link.why, "packet plane");
        }
        let state = State {
            image,
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
        let next_hops = Arc::new(tokio::sync::Mutex::new(NextHops::new(connection, own)));
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&shared), Arc::clone(&next_hops)));
        let answers = tokio::spawn(answers::run(notices));
        Ok(Self { shared, next_hops, tasks: [upkeep, answers] })
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
        let mut next_hops = self.next_hops.lock().await;
        next_hops.look_up(&addresses).await?;
        let mut note = None;
        let mut mode = rule.mode;
        if mode == Mode::Dsr {
            note = next_hops.refusal(rule, Mode::Dsr).map(|why| format!("not dsr: {why}"));
            mode = if note.is_some() { Mode::Nat } else { Mode::Dsr };
        }
        if let Some(why) = next_hops.refusal(rule, mode) {
            return Err(Refusal::Unsuitable(why));
        }
        let gate =
            if is_relayed && frontend.protocol == Protocol::Tcp { Gate::OpeningsOnly } else { Gate::Open };
        let mut state = self.shared.state();
        state.add_sources(&next_hops)?;
        state.follow(frontend, rule, (mode, gate), &next_hops).map_err(|failure| match failure {
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
        let entry = state.image.set_gate(frontend, Gate::Open);
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
        let is_there = state.image.id(frontend).is_some();
        if !is_there || state.drains.get(frontend).is_some_and(|before| *before <= until) {
            return;
        }
        state.drains.insert(*frontend, until);
        let writes = state.image.set_gate(frontend, Gate::KnownFlowsOnly);
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
        state.image.frontends().map(status).collect()
    }

    /// Whether `frontend` is in the maps.
    pub fn has(&self, frontend: &Frontend) -> bool {
        self.shared.state().image.id(frontend).is_some()
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
            state.image.backends(frontend).map(status).collect()
        })
    }

    /// The links and their hooks.
    pub fn links(&self) -> Vec<LinkPlane> {
        let state = |link: &PacketLink| LinkPlane {
            link: link.facts.name.clone(),
            hook: link.hook,
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

/// A frontend of which only the maps are known: until its Service is seen.
fn restored_rule() -> Arc<Rule> {
    Arc::new(Rule::new(ServiceName::new("", ""), BTreeMap::new(), crate::model::Terms::default()))
}
