// SPDX-License-Identifier: Apache-2.0
//! A cluster, a machine, and an agent that can be killed at any moment.

#![expect(clippy::disallowed_methods, reason = "tests wait and measure by the real clock")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llb_agent::addresses::fake::FakeAddresses;
use llb_agent::config::Policy;
use llb_agent::dataplane::DataPlane;
use llb_agent::dataplane::fake::FakePlane;
use llb_agent::model::{
    Endpoint, Family, Finalizer, Frontend, Link, LinkAddress, Node, Phase, Port, Protocol, PublishedStatus,
    ReservedFor, Service, ServiceName, ServicePort, Snapshot, SourceReport,
};
use llb_agent::reconcile::{LAST_RETRY, ReconcileMetrics, Reconciler, Report, Rooms};
use llb_agent::status::fake::FakeStatuses;
use prometheus_client::registry::Registry;
use rand::Rng;
use rand::rngs::StdRng;

use super::faults::{Fault, Faults};
use super::faulty::{FaultyAddresses, FaultyPlane, FaultyStatuses};

type Agent = Reconciler<FaultyPlane, FaultyAddresses, FaultyStatuses>;

/// Everything that a run changes, and what the checks have to remember.
pub(crate) struct World {
    pub(super) seed: u64,
    now: Instant,
    pub(super) snapshot: Snapshot,
    /// What goes wrong next.
    pub(super) faults: Faults,
    pub(super) statuses: FaultyStatuses,
    pub(super) agent: Agent,
    /// Of the last round.
    pub(super) report: Report,
    /// The machine's own addresses, which llb must not touch.
    pub(super) foreign: BTreeSet<IpAddr>,
    /// The link while it is away.
    pub(super) unplugged: Option<Link>,
    /// What was there before the last round.
    pub(super) before: Before,
    /// The VIPs that each Service has been seen with, since it asked for something else.
    pub(super) given: BTreeMap<ServiceName, BTreeSet<IpAddr>>,
    /// Services that the agent has not looked at since they changed, or since it started.
    pub(super) unseen: BTreeSet<ServiceName>,
    /// When the next Service is created.
    clock_of_creation: i64,
}

/// What was there before a round.
#[derive(Default)]
pub(super) struct Before {
    pub(super) serving: BTreeSet<Frontend>,
    pub(super) published: BTreeSet<IpAddr>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let faults = Faults::default();
        let statuses = FaultyStatuses { inner: FakeStatuses::default(), faults: faults.clone() };
        let own = ["192.0.2.10/24", "2001:db8::10/64", "192.0.2.200/24"];
        let address = |net: &str| LinkAddress { net: net.parse().unwrap(), ours: false, primary: true };
        let links = vec![Link { name: "eth0".to_owned(), addresses: own.map(address).to_vec() }];
        let foreign = links[0].addresses.iter().map(|known| known.net.addr()).collect();
        let mut addresses = FakeAddresses::default();
        addresses.links = links;
        let agent = agent(FakePlane::default(), addresses, statuses.clone(), seed);
        Self {
            seed,
            faults,
            now: Instant::now(),
            snapshot: Snapshot::default(),
            statuses,
            agent,
            report: Report::default(),
            foreign,
            unplugged: None,
            before: Before::default(),
            given: BTreeMap::new(),
            unseen: BTreeSet::new(),
            clock_of_creation: 0,
        }
    }

    /// One random change of the cluster or the machine, or a fault, or a restart of the agent.
    pub(crate) fn change(&mut self, random: &mut StdRng) {
        if random.random_range(0..3) == 0 {
            self.plug_in();
        }
        match random.random_range(0..21) {
            0..=4 => self.change_service(random),
            5 => self.remove_service(random),
            6..=7 => self.change_endpoints(random),
            8 => {
                let address = IpAddr::from([192, 0, 2, random.random_range(20..24)]);
                let node = Node { internal: vec![address], ..Node::default() };
                self.snapshot.nodes.insert(format!("node-{address}"), node);
            }
            9 => {
                self.snapshot.nodes.pop_first();
            }
            10..=13 => {
                let fault = Fault::ALL[random.random_range(0..Fault::ALL.len())];
                self.faults.plan(fault, random.random_range(1..6));
            }
            14 => {
                let frontend = Frontend { vip: vip(random), port: port(random), protocol: Protocol::Tcp };
                self.agent.rooms.plane.inner.occupied.insert(frontend);
            }
            15 => self.agent.rooms.plane.inner.drains_slowly = random.random(),
            16 => self.agent.rooms.plane.inner.finish_draining(),
            // Another host takes a VIP, or releases it.
            17 => {
                let (vip, taken) = (vip(random), &mut self.agent.rooms.addresses.inner.taken);
                if !taken.remove(&vip) {
                    taken.insert(vip);
                }
            }
            // The machine gets another gateway, or loses it.
            18 => self.change_gateway(vip(random)),
            19 => self.unplug(),
            _ => self.kill(),
        }
    }

    fn change_gateway(&mut self, address: IpAddr) {
        let reserved = &mut self.agent.rooms.addresses.inner.host.reserved;
        if reserved.remove(&address).is_none() {
            reserved.insert(address, ReservedFor::Gateway);
        }
        // Services that have the address lose it, and those that ask for it may get it.
        let services = &self.snapshot.services;
        let asks = |name: &ServiceName| {
            services.get(name).is_some_and(|service| service.requested_vips.contains(&address))
        };
        self.given.retain(|name, vips| !vips.contains(&address) && !asks(name));
        self.unseen.extend(services.keys().cloned());
    }

    /// The link goes away, and with it what llb added.
    fn unplug(&mut self) {
        if let Some(mut link) = self.agent.rooms.addresses.inner.links.pop() {
            link.addresses.retain(|known| !known.ours);
            self.unplugged = Some(link);
        }
    }

    fn plug_in(&mut self) {
        self.agent.rooms.addresses.inner.links.extend(self.unplugged.take());
    }

    /// kill -9 and a new start: sockets are gone, addresses and statuses stay.
    fn kill(&mut self) {
        let addresses = self.agent.rooms.addresses.inner.clone();
        let mut plane = FakePlane::default();
        plane.occupied = self.agent.rooms.plane.inner.occupied.clone();
        self.agent = agent(plane, addresses, self.statuses.clone(), self.seed);
        // The new agent does not know what was decided but not yet published, and may decide differently.
        let published = self.statuses.inner.lock().statuses.clone();
        let decided = &self.report.desired.statuses;
        self.given
            .retain(|name, _| published.get(name).is_some_and(|status| decided.get(name) == Some(status)));
        self.unseen.extend(self.snapshot.services.keys().cloned());
    }

    fn change_service(&mut self, random: &mut StdRng) {
        let name = service_name(random);
        if self.snapshot.services.get(&name).is_some_and(|service| service.deleting) {
            return;
        }
        self.clock_of_creation += 1;
        let created = self.snapshot.services.get(&name).map_or(self.clock_of_creation, |known| known.created);
        let count = random.random_range(1..4);
        let mut ports: Vec<ServicePort> = (0..count).map(|_| service_port(random)).collect();
        ports.sort_by_key(|port| (port.port, port.protocol));
        ports.dedup_by_key(|port| (port.port, port.protocol));
        let families = match random.random_range(0..3) {
            0 => vec![Family::V4],
            1 => vec![Family::V4, Family::V6],
            _ => Vec::new(),
        };
        let service = Service {
            created,
            wants_load_balancer: random.random_range(0..8) > 0,
            needs_every_family: families.len() < 2 || random.random(),
            families,
            ports,
            sharing_key: random.random::<bool>().then(|| "k".to_owned()),
            requested_vips: if random.random_range(0..3) == 0 { vec![vip(random)] } else { Vec::new() },
            ..Service::default()
        };
        self.given.remove(&name);
        self.unseen.insert(name.clone());
        self.snapshot.services.insert(name, service.into());
    }

    fn remove_service(&mut self, random: &mut StdRng) {
        let name = service_name(random);
        self.given.remove(&name);
        self.unseen.insert(name.clone());
        let mut statuses = self.statuses.inner.lock();
        let is_kept = statuses.statuses.get(&name).is_some_and(|status| status.finalizer == Finalizer::Ours);
        if !is_kept {
            statuses.statuses.remove(&name);
            self.snapshot.services.remove(&name);
        } else if let Some(service) = self.snapshot.services.get_mut(&name) {
            let service = Arc::make_mut(service);
            (service.wants_load_balancer, service.deleting) = (false, true);
        }
    }

    /// What the API server does: a deleted Service goes with its last finalizer.
    fn remove_released_services(&mut self) {
        let statuses = &mut self.statuses.inner.lock().statuses;
        let is_kept = |name: &ServiceName, service: &Service| {
            let status = statuses.get(name);
            !service.deleting || status.is_some_and(|status| status.finalizer == Finalizer::Ours)
        };
        let released: Vec<ServiceName> = self
            .snapshot
            .services
            .iter()
            .filter(|(name, service)| !is_kept(name, service))
            .map(|(name, _)| name.clone())
            .collect();
        for name in released {
            let frontends = self.agent.rooms.plane.observe();
            let served = frontends.values().filter_map(|status| status.rule.as_ref());
            assert!(
                !served.into_iter().any(|rule| rule.service == name),
                "seed {}: {name} lost its finalizer while it was served",
                self.seed
            );
            statuses.remove(&name);
            self.snapshot.services.remove(&name);
        }
    }

    fn change_endpoints(&mut self, random: &mut StdRng) {
        let name = service_name(random);
        if random.random_range(0..6) == 0 {
            self.snapshot.endpoints.remove(&name);
            return;
        }
        let endpoint = |random: &mut StdRng| {
            let ready = random.random();
            Endpoint {
                address: IpAddr::from([198, 51, 100, random.random_range(1..9)]),
                port_name: None,
                port: port(random),
                protocol: Protocol::Tcp,
                node: None,
                ready,
                serving: ready || random.random(),
                terminating: !ready,
            }
        };
        let count = random.random_range(0..4);
        self.snapshot.endpoints.insert(name, (0..count).map(|_| endpoint(random)).collect());
    }

    /// One round of the agent. Gives status writes the chance to end before the next one.
    pub(crate) async fn round(&mut self) {
        self.before = Before { serving: self.serving(), published: self.published() };
        let source = SourceReport {
            snapshot: Some(Arc::new(self.snapshot.clone())),
            problems: Vec::new(),
            interest: 0,
        };
        self.report = self.agent.round(&source, self.now).await;
        // A round that can't read the links decides nothing and has no facts.
        if !self.report.facts.links.is_empty() {
            self.unseen.clear();
        }
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        self.remove_released_services();
    }

    /// The frontends that accept traffic.
    pub(super) fn serving(&mut self) -> BTreeSet<Frontend> {
        let all = self.agent.rooms.plane.inner.observe();
        let serving = all.into_iter().filter(|(_, status)| status.phase == Phase::Serving);
        serving.map(|(frontend, _)| frontend).collect()
    }

    /// The VIPs in statuses.
    pub(super) fn published(&self) -> BTreeSet<IpAddr> {
        self.statuses.inner.lock().statuses.values().flat_map(PublishedStatus::addresses).collect()
    }

    /// Ends all faults and everything else that is in the agent's way.
    pub(crate) fn heal(&mut self) {
        self.faults.clear();
        self.plug_in();
        self.agent.rooms.addresses.inner.taken.clear();
        self.agent.rooms.plane.inner.occupied.clear();
        self.agent.rooms.plane.inner.drains_slowly = false;
        self.agent.rooms.plane.inner.finish_draining();
    }

    /// Runs enough rounds for every retry.
    pub(crate) async fn settle(&mut self) {
        for _ in 0..12 {
            self.now += LAST_RETRY + Duration::from_secs(1);
            self.round().await;
        }
    }
}

/// Every second seed has finalizers.
fn agent(plane: FakePlane, addresses: FakeAddresses, statuses: FaultyStatuses, seed: u64) -> Agent {
    let faults = &statuses.faults;
    let plane = FaultyPlane { inner: plane, faults: faults.clone() };
    let addresses = FaultyAddresses { inner: addresses, faults: faults.clone() };
    let policy = Policy {
        pools: vec!["192.0.2.100-192.0.2.103".parse().unwrap()],
        finalizers: seed.is_multiple_of(2),
        ..Policy::default()
    };
    let metrics = ReconcileMetrics::register(&mut Registry::default());
    Reconciler::new(Rooms { plane, addresses, statuses }, policy, metrics)
}

/// There are few names, VIPs and ports, so that Services compete for them.
fn service_name(random: &mut StdRng) -> ServiceName {
    ServiceName::new("default", format!("s{}", random.random_range(0..7)))
}

fn vip(random: &mut StdRng) -> IpAddr {
    IpAddr::from([192, 0, 2, [50, 100, 101, 10, 200][random.random_range(0..5)]])
}

fn port(random: &mut StdRng) -> Port {
    Port::new(random.random_range(80..83)).unwrap()
}

fn service_port(random: &mut StdRng) -> ServicePort {
    let protocol = if random.random_range(0..3) == 0 { Protocol::Udp } else { Protocol::Tcp };
    let node_port = random.random_range(0..3) > 0;
    ServicePort {
        name: None,
        port: port(random),
        protocol,
        node_port: node_port.then(|| Port::new(30080).unwrap()),
    }
}
