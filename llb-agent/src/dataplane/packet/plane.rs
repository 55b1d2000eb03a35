// SPDX-License-Identifier: Apache-2.0
//! The packet plane as its owner sees it: it is opened, frontends come and go by their
//! rules, and it is detached or left to the next agent. What a rule does to the maps is
//! decided in `state.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llb_common::backend::{ACTIVE, BackendEntry, DRAINING};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::clock::now;
use super::drain::Drain;
use super::error::PacketError;
use super::gateways::Gateways;
use super::image::{Gate, Served};
use super::link_facts::{LinkFacts, index_of};
use super::loader::{LinkLocks, Loaded, load};
use super::lro::Lro;
use super::map_sizes::{Capacities, memory_bytes};
use super::neighbours::release_neighbours;
use super::next_hops::{NextHops, own_links};
use super::packet_link::{PacketLink, forget_others};
use super::pins::{SHARED, forget_empty, provide_bpffs, remove_program};
use super::refusal::Refusal;
use super::relink::{ladders, look_at_links};
use super::settings::{first_settings, known_sources};
use super::setup::PacketSetup;
use super::shared::Shared;
use super::state::State;
use super::{answers, canary_sender, counting, early, metrics, tester, upkeep};
use crate::clock;
use crate::config::ReturnPath;
use crate::dataplane::BackendStates;
use crate::dataplane::placement::packet_mode;
use crate::error_chain::ErrorChain;
use crate::model::{
    Backend, BackendState, BackendStatus, Counts, FailedBackends, Frontend, FrontendStatus, LinkPlane, Phase,
    Placement, PlacementReason, PlaneKind, Problem, Protocol, Rule,
};
use crate::netlink::Connection;

/// Programs at links, and the maps by which they forward. When it is dropped, both stay.
#[derive(Debug)]
pub struct PacketPlane {
    shared: Arc<Shared>,
    next_hops: Arc<tokio::sync::Mutex<NextHops>>,
    /// Link devices that get no program.
    links_without_header: Vec<String>,
    /// How long the flows of a removed frontend may go on.
    drain_timeout: Duration,
    /// Upkeep, tester, canaries, answers, and what sends early fragments.
    tasks: Vec<JoinHandle<()>>,
}

impl PacketPlane {
    /// Puts a program on each link, and takes over what a predecessor has pinned. `locks`
    /// are those that a running predecessor gave. `changed` is notified whenever
    /// [`PacketPlane::observe`] would return something new without a call.
    ///
    /// # Errors
    /// A link takes no program. What forwarded before still does.
    pub async fn open(
        setup: PacketSetup,
        mut locks: LinkLocks,
        changed: Arc<Notify>,
    ) -> Result<Self, PacketError> {
        provide_bpffs(&setup.bpf_dir)?;
        let drain_timeout = setup.drain_timeout;
        let (connection, all) = links_of(&setup).await?;
        let (facts, without): (Vec<LinkFacts>, Vec<LinkFacts>) =
            all.into_iter().partition(|link| link.is_ethernet);
        let links_without_header = without.into_iter().map(|link| link.name).collect::<Vec<_>>();
        if facts.is_empty() {
            return Err(PacketError::NoEthernetHeader { links: links_without_header.join(", ") });
        }
        let capacities = Capacities::new(&setup.config, memory_bytes());
        // First: some drivers refuse XDP while LRO is on.
        let mut lro = Lro::default();
        lro.keep_off(&facts).await;
        let ladders = ladders(&setup, facts.clone()).await;
        let loaded = load(&setup, &ladders, capacities, &mut locks)?;
        let Loaded { links, maps, notices, early, shared: folder } = loaded;
        let failed = |error| PacketError::pin("use the maps in", folder.path(), error);
        let settings = first_settings(&setup, &maps).map_err(failed)?;
        let mut state = State::read_back(Arc::new(maps), capacities.limits()).map_err(failed)?;
        state.maps.settings.insert(&0, &settings).map_err(failed)?;
        state.settings = settings;
        forget_others(&state.maps.links, &facts.iter().map(|link| link.ifindex).collect()).map_err(failed)?;
        for link in &links {
            link.switch_on(&state.maps.links).map_err(failed)?;
            tracing::info!(link = link.facts.name, hook = %link.hook, why = %link.why, "packet plane");
        }
        let shared = Arc::new(Shared {
            links: Mutex::new(links),
            folder,
            state: Mutex::new(state),
            problems: Mutex::default(),
            lro: lro.into(),
            early: Mutex::default(),
            capacities,
            setup,
            changed,
            hurry: Notify::new(),
            nodes_wait: Notify::new(),
        });
        look_at_links(&shared).await;
        let last_hops = shared.state().image.last_hops();
        let gateways = Gateways::new(shared.setup.config.return_path == ReturnPath::Routes);
        let next_hops = NextHops::new(connection, own_links(&facts), last_hops, gateways);
        let next_hops = Arc::new(tokio::sync::Mutex::new(next_hops));
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&shared), Arc::clone(&next_hops)));
        let tester = tokio::spawn(tester::run(Arc::clone(&shared)));
        let canaries = tokio::spawn(canary_sender::run(Arc::clone(&shared), Arc::clone(&next_hops)));
        let answers = tokio::spawn(answers::run(notices));
        let early = tokio::spawn(early::run(early, Arc::clone(&shared)));
        let tasks = vec![upkeep, tester, canaries, answers, early];
        Ok(Self { shared, next_hops, links_without_header, drain_timeout, tasks })
    }

    /// Serves `frontend` by `rule` from now on. `is_relayed`: the relay has connections of it
    /// too, whose packets are left to the relay.
    ///
    /// # Errors
    /// The plane can't serve it. If it served the frontend before, it still does.
    pub async fn upsert(
        &self,
        frontend: Frontend,
        rule: &Arc<Rule>,
        is_relayed: bool,
    ) -> Result<(), Refusal> {
        // Held until the maps are written: the upkeep forgets routes that no backend in the maps needs.
        let mut next_hops = self.next_hops.lock().await;
        let found = next_hops.look_up(&rule.addresses()).await;
        let mut state = self.shared.state();
        // An agent before this one may still relay some.
        let leaves_connections = is_relayed || state.image.gate_of(&frontend) == Some(Gate::OpeningsOnly);
        let gate = match leaves_connections && frontend.protocol == Protocol::Tcp {
            true => Gate::OpeningsOnly,
            false => Gate::Open,
        };
        let served = found.map_err(Refusal::LookUp).and_then(|()| {
            let used = next_hops.sources(&state.image.addresses());
            let in_use = known_sources(&state.settings, used.clone());
            let ways = next_hops.ways(&rule.addresses(), &in_use);
            let placed = packet_mode(rule, &ways).map_err(Refusal::Obstacle)?;
            let sources = next_hops.sources(&rule.addresses());
            state.add_sources(&used.union(&sources).copied().collect()).map_err(Refusal::WriteMaps)?;
            state.serve(frontend, rule, (placed, gate), |address| next_hops.next_hop(address), now())
        });
        let in_use = state.image.in_use();
        state.moves.placed(frontend, rule, served.as_ref().copied(), in_use, clock::now());
        if !state.readiness.is_idle() {
            self.shared.nodes_wait.notify_one();
        }
        served
    }

    /// Notes that another plane serves `frontend` for good: its rule asks for what this one can't do.
    pub fn forget(&self, frontend: &Frontend) {
        self.shared.state().moves.forget(frontend);
    }

    /// Whether `frontend` should be placed anew: this plane can serve it by now or can't any more, or it can in
    /// another mode.
    pub fn is_due(&self, frontend: &Frontend) -> bool {
        self.shared.state().moves.is_due(frontend)
    }

    /// The frontends of which only those packets are taken that open a connection, because the
    /// relay had connections when it gave them away.
    pub fn sharing_with_relay(&self) -> Vec<Frontend> {
        let state = self.shared.state();
        let shared = state.image.frontends().filter(|served| served.gate == Gate::OpeningsOnly);
        shared.map(|served| *served.frontend).collect()
    }

    /// Takes all packets of `frontend`: the relay has no connections of it any more.
    pub fn take_all(&self, frontend: &Frontend) {
        if let Err(error) = self.shared.state().take_all(frontend) {
            let error = ErrorChain(&error);
            tracing::warn!(%frontend, %error, "packets of old connections still go to the relay");
        }
    }

    /// Takes no new flows. Open TCP flows may go on until the drain time-out. Then, or when
    /// the last one has ended, the frontend is gone.
    pub fn remove(&self, frontend: &Frontend) {
        self.forget(frontend);
        self.close(frontend, Drain::Until(clock::now() + self.drain_timeout));
    }

    /// How long the flows of frontends may go on that are removed from now on.
    pub fn set_drain_timeout(&mut self, drain_timeout: Duration) {
        self.drain_timeout = drain_timeout;
    }

    /// As [`PacketPlane::remove`], because another plane takes new flows from now on: open TCP
    /// flows go on until they end.
    pub fn give_away(&self, frontend: &Frontend) {
        self.close(frontend, Drain::UntilLastFlow);
    }

    fn close(&self, frontend: &Frontend, drain: Drain) {
        // UDP has no flow that ends; what a client sends on belongs to the next plane.
        let drain = if frontend.protocol == Protocol::Udp { Drain::Until(clock::now()) } else { drain };
        match self.shared.state().close(frontend, drain) {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                let error = ErrorChain(&error);
                tracing::warn!(%frontend, %error, "cannot close the frontend yet; it is tried again");
            }
        }
        self.shared.hurry.notify_one();
    }

    /// Ends all drains now.
    pub fn abort(&self) {
        self.shared.state().end_drains(clock::now());
        self.shared.hurry.notify_one();
    }

    /// All frontends in the maps, draining ones included.
    pub fn observe(&self) -> BTreeMap<Frontend, FrontendStatus> {
        let state = self.shared.state();
        let hooks: BTreeSet<_> = self.shared.links().iter().map(|link| link.hook).collect();
        let status = |Served { frontend, rule, mode, gate }: Served<'_>| {
            let not_dsr = state.not_dsr.get(frontend).copied();
            let why = PlacementReason::Packet { hooks: hooks.clone(), not_dsr };
            let is_draining = gate == Gate::KnownFlowsOnly || state.drains.contains_key(frontend);
            let status = FrontendStatus {
                rule: rule.cloned(),
                phase: if is_draining { Phase::Draining } else { Phase::Serving },
                placement: Placement { plane: PlaneKind::Packet, mode: Some(mode), why: Some(why) },
                other_clients: None,
                is_misplaced: state.moves.is_due(frontend),
            };
            (*frontend, status)
        };
        state.image.frontends().map(status).collect()
    }

    /// Whether `frontend` is in the maps.
    pub fn has(&self, frontend: &Frontend) -> bool {
        self.shared.state().image.has(frontend)
    }

    /// Each backend of a frontend with its state and its flows as of the last sweep.
    pub fn backend_states(&self) -> BackendStates {
        let shared = Arc::clone(&self.shared);
        BackendStates::new(move |frontend| {
            let state = shared.state();
            let status = |(backend, entry): (&Backend, &BackendEntry)| BackendStatus {
                backend: *backend,
                state: match entry.state {
                    ACTIVE => BackendState::Active,
                    _ if entry.mac.is_unknown() && state.image.is_in_rule(frontend, backend) => {
                        BackendState::Unreachable
                    }
                    DRAINING if state.readiness.waits(frontend, backend.address.ip()) => {
                        BackendState::Waiting
                    }
                    DRAINING => BackendState::Draining,
                    _ => BackendState::Removed,
                },
                flows: Some(state.flows.all.get(&entry.id).copied().unwrap_or(0).into()),
            };
            state.image.backends(frontend).map(status).collect()
        })
    }

    /// A question about what the programs have counted. It can be asked from any task.
    pub fn counting(&self) -> impl Fn() -> io::Result<Counts> + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || counting::counts(&shared)
    }

    /// The backends that are dead as of the last look, of frontends that serve.
    pub fn failed_backends(&self) -> FailedBackends {
        let state = self.shared.state();
        let mut all = FailedBackends::new();
        for (frontend, _, backend, entry) in state.image.in_rules() {
            let Some(failure) = state.failures.of(entry.id) else { continue };
            if !state.drains.contains_key(frontend) {
                all.entry(*frontend).or_default().insert(*backend, failure);
            }
        }
        all
    }

    /// The links that were made anew and have no program yet, or whose backends are not known there yet.
    pub fn unready_links(&self) -> BTreeSet<String> {
        let is_another =
            |facts: &LinkFacts| index_of(&facts.name).is_some_and(|index| index != facts.ifindex);
        let links = self.shared.links();
        let unready = links.iter().filter(|link| !link.is_followed || is_another(&link.facts));
        unready.map(|link| link.facts.name.clone()).collect()
    }

    /// What is wrong with the links.
    pub fn problems(&self) -> Vec<Problem> {
        self.shared.problems().clone()
    }

    /// The links with their hooks.
    pub fn links(&self) -> Vec<LinkPlane> {
        let state = |link: &PacketLink| LinkPlane {
            link: link.facts.name.clone(),
            hook: link.hook,
            why: link.why.clone(),
        };
        self.shared.links().iter().map(state).collect()
    }

    /// Link devices without an Ethernet header. The relay serves what needs them.
    pub fn links_without_header(&self) -> Vec<String> {
        self.links_without_header.clone()
    }

    /// Shows the counts as metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        metrics::register(&self.shared, registry);
    }

    /// Attaches no program any more, as another agent takes over. What is being attached is waited for.
    pub fn stop_attaching(&self) {
        self.shared.setup.turn.end();
    }

    /// Attaches programs again: the other agent has not taken over.
    pub fn resume_attaching(&self) {
        self.shared.setup.turn.resume();
    }

    /// The locks, for the agent that takes over. When this plane is dropped afterwards,
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

    /// Takes the programs off their links and forgets all flows.
    ///
    /// # Errors
    /// A pin can't be removed, a driver keeps its program, or the kernel does not answer. All other programs are removed,
    /// but the maps stay for the one that stays.
    pub async fn detach(&mut self) -> Result<(), PacketError> {
        // The upkeep must not make the kernel keep a neighbour after the release.
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        let links: Vec<String> = self.shared.links().iter().map(|link| link.facts.name.clone()).collect();
        let remove = |link: &PacketLink| {
            let facts = &link.facts;
            remove_program(&facts.name, Some(facts.ifindex), link.folder.path())
        };
        let mut results: Vec<Result<(), PacketError>> = self.shared.links().iter().map(remove).collect();
        // A program that stays goes on with the flows, and the next agent needs the same maps.
        if results.iter().all(Result::is_ok) {
            results.push(self.shared.folder.remove());
        }
        forget_empty(&self.shared.setup.bpf_dir);
        results.push(release_neighbours(&links).await);
        results.into_iter().collect()
    }
}

impl Drop for PacketPlane {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The links that get programs, and the connection that told them.
async fn links_of(setup: &PacketSetup) -> Result<(Connection, Vec<LinkFacts>), PacketError> {
    let failed = |source| PacketError::Netlink { source };
    let mut connection = Connection::open().map_err(failed)?;
    let all = LinkFacts::read(&mut connection).await.map_err(failed)?;
    let facts = setup.links.iter().map(|name| {
        let found = all.iter().find(|link| link.name == *name).cloned();
        found.ok_or_else(|| PacketError::NoSuchLink { link: name.clone() })
    });
    let facts = facts.collect::<Result<_, _>>()?;
    Ok((connection, facts))
}
