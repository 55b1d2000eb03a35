// SPDX-License-Identifier: Apache-2.0
//! A cluster, a machine, and an agent that can be killed at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llb_agent::addresses::fake::FakeAddresses;
use llb_agent::config::Policy;
use llb_agent::dataplane::DataPlane;
use llb_agent::dataplane::fake::FakePlane;
use llb_agent::model::{
    Endpoint, Family, Frontend, Link, LinkAddress, Node, Phase, Port, ProblemReason, Protocol,
    PublishedStatus, Service, ServiceName, ServicePort, Snapshot, SourceReport,
};
use llb_agent::plan::NOT_SERVED;
use llb_agent::reconcile::{LAST_RETRY, ReconcileMetrics, Reconciler, Report, Rooms};
use llb_agent::status::fake::FakeStatuses;
use prometheus_client::registry::Registry;
use rand::Rng;
use rand::rngs::StdRng;

type Agent = Reconciler<FakePlane, FakeAddresses, FakeStatuses>;

pub(crate) struct World {
    seed: u64,
    now: Instant,
    snapshot: Snapshot,
    statuses: FakeStatuses,
    agent: Agent,
    report: Report,
    foreign: BTreeSet<IpAddr>,
    /// The VIPs that each Service has been seen with, since it asked for something else.
    given: BTreeMap<ServiceName, BTreeSet<IpAddr>>,
    /// Services that the agent has not looked at since they were changed, or it started.
    unseen: BTreeSet<ServiceName>,
    clock_of_creation: i64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let statuses = FakeStatuses::default();
        let own = ["192.0.2.10/24", "2001:db8::10/64", "192.0.2.200/24"];
        let address = |net: &str| LinkAddress { net: net.parse().unwrap(), ours: false, primary: true };
        let links = vec![Link { name: "eth0".to_owned(), addresses: own.map(address).to_vec() }];
        let foreign = links[0].addresses.iter().map(|known| known.net.addr()).collect();
        let mut addresses = FakeAddresses::default();
        addresses.links = links;
        let agent = agent(FakePlane::default(), addresses, statuses.clone());
        Self {
            seed,
            now: Instant::now(),
            snapshot: Snapshot::default(),
            statuses,
            agent,
            report: Report::default(),
            foreign,
            given: BTreeMap::new(),
            unseen: BTreeSet::new(),
            clock_of_creation: 0,
        }
    }

    /// One random change of the cluster, the machine, or the agent's luck.
    pub(crate) fn change(&mut self, random: &mut StdRng) {
        match random.random_range(0..17) {
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
            10 => self.agent.rooms.addresses.failures = random.random_range(1..6),
            11 => self.statuses.lock().failures = random.random_range(1..6),
            12 => {
                let frontend = Frontend { vip: vip(random), port: port(random), protocol: Protocol::Tcp };
                self.agent.rooms.plane.occupied.insert(frontend);
            }
            13 => self.agent.rooms.plane.drains_slowly = random.random(),
            14 => self.agent.rooms.plane.finish_draining(),
            // Another host takes a VIP, or gives it back.
            15 => {
                let (vip, taken) = (vip(random), &mut self.agent.rooms.addresses.taken);
                if !taken.remove(&vip) {
                    taken.insert(vip);
                }
            }
            _ => self.kill(),
        }
    }

    /// kill -9 and a new start: sockets are gone, addresses and statuses are not.
    fn kill(&mut self) {
        let addresses = self.agent.rooms.addresses.clone();
        let mut plane = FakePlane::default();
        plane.occupied = self.agent.rooms.plane.occupied.clone();
        self.agent = agent(plane, addresses, self.statuses.clone());
        // What was decided and not yet published is forgotten, and may be decided otherwise.
        let published = self.statuses.lock().statuses.clone();
        let decided = &self.report.desired.statuses;
        self.given
            .retain(|name, _| published.get(name).is_some_and(|status| decided.get(name) == Some(status)));
        self.unseen.extend(self.snapshot.services.keys().cloned());
    }

    fn change_service(&mut self, random: &mut StdRng) {
        let name = service_name(random);
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
            requested_vips: if random.random_range(0..3) == 0 { vec![vip(random)] } else { Vec::new() },
            ..Service::default()
        };
        self.given.remove(&name);
        self.unseen.insert(name.clone());
        self.snapshot.services.insert(name, service.into());
    }

    fn remove_service(&mut self, random: &mut StdRng) {
        let name = service_name(random);
        self.snapshot.services.remove(&name);
        self.statuses.lock().statuses.remove(&name);
        self.given.remove(&name);
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

    /// One round of the agent; status writes may end before the next one.
    pub(crate) async fn round(&mut self) {
        let source = SourceReport { snapshot: Some(Arc::new(self.snapshot.clone())), problems: Vec::new() };
        self.report = self.agent.round(&source, self.now).await;
        self.unseen.clear();
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }

    /// No more faults.
    pub(crate) fn heal(&mut self) {
        self.agent.rooms.addresses.failures = 0;
        self.agent.rooms.addresses.taken.clear();
        self.statuses.lock().failures = 0;
        self.agent.rooms.plane.occupied.clear();
        self.agent.rooms.plane.drains_slowly = false;
        self.agent.rooms.plane.finish_draining();
    }

    pub(crate) async fn settle(&mut self) {
        for _ in 0..6 {
            self.now += LAST_RETRY + Duration::from_secs(1);
            self.round().await;
        }
    }

    /// What holds at every moment, in the middle of trouble too.
    pub(crate) fn check_always(&mut self) {
        let seed = self.seed;
        let addresses = &self.agent.rooms.addresses;
        assert!(!addresses.touched_foreign, "seed {seed}: a foreign address was touched");
        let on_link: BTreeSet<IpAddr> =
            addresses.links[0].addresses.iter().map(|known| known.net.addr()).collect();
        assert!(self.foreign.is_subset(&on_link), "seed {seed}: a foreign address is gone");
        for (name, status) in &self.statuses.lock().statuses {
            let vips = status.addresses();
            let current =
                self.report.desired.statuses.get(name).map(PublishedStatus::addresses).unwrap_or_default();
            if vips.is_empty() || current != vips || self.unseen.contains(name) {
                continue;
            }
            self.given.entry(name.clone()).or_insert(vips);
        }
        // A Service that got a VIP, and was not changed since, keeps it.
        for (name, before) in &self.given {
            let current =
                self.report.desired.statuses.get(name).map(PublishedStatus::addresses).unwrap_or_default();
            assert!(
                self.unseen.contains(name) || current == *before,
                "seed {seed}: {name} had {before:?}, now {current:?}"
            );
        }
    }

    /// What holds once nothing changes any more.
    pub(crate) fn check_converged(&mut self) {
        let seed = self.seed;
        let desired = &self.report.desired;
        let observed = self.agent.rooms.plane.observe();
        let serving: BTreeMap<_, _> = observed
            .iter()
            .filter(|(_, status)| status.phase == Phase::Serving)
            .filter_map(|(frontend, status)| Some((*frontend, status.rule.clone()?)))
            .collect();
        assert_eq!(serving, desired.frontends, "seed {seed}: frontends");
        let ours = self.agent.rooms.addresses.links[0].addresses.iter().filter(|known| known.ours);
        let ours: BTreeSet<IpAddr> = ours.map(|known| known.net.addr()).collect();
        let wanted: BTreeSet<IpAddr> = desired.addresses.keys().map(|key| key.address).collect();
        assert_eq!(ours, wanted, "seed {seed}: addresses");
        let vips: BTreeSet<IpAddr> = desired.frontends.keys().map(|frontend| frontend.vip).collect();
        assert!(wanted.is_subset(&vips), "seed {seed}: an address without a frontend");

        let published = &self.statuses.lock().statuses;
        for (name, service) in &self.snapshot.services {
            let status = published.get(name).cloned().unwrap_or_default();
            let wanted = desired.statuses.get(name).cloned().unwrap_or_default();
            let errors = status
                .vips
                .iter()
                .flat_map(|vip| &vip.ports)
                .filter(|port| port.error.as_deref() == Some(NOT_SERVED));
            assert_eq!(errors.count(), 0, "seed {seed}: {name}: {status:?}");
            // A VIP is first published when there is a backend to answer.
            let has_backends =
                desired.frontends.values().any(|rule| rule.service == *name && !rule.backends.is_empty());
            if status != wanted {
                assert!(
                    service.wants_load_balancer && !has_backends,
                    "seed {seed}: {name}: {status:?}, not {wanted:?}"
                );
            }
        }
        for problem in &self.report.problems {
            let healed = [ProblemReason::ActionFailed, ProblemReason::VipConflict];
            assert!(!healed.contains(&problem.reason), "seed {seed}: {problem}");
        }
    }
}

fn agent(plane: FakePlane, addresses: FakeAddresses, statuses: FakeStatuses) -> Agent {
    let policy = Policy { pools: vec!["192.0.2.100-192.0.2.103".parse().unwrap()], ..Policy::default() };
    let metrics = ReconcileMetrics::register(&mut Registry::default());
    Reconciler::new(Rooms { plane, addresses, statuses }, policy, metrics)
}

/// Few names, VIPs and ports, so that they meet.
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
