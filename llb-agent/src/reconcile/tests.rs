// SPDX-License-Identifier: Apache-2.0
//! Tests of the loop with fakes, where its pace or its failures matter. What it
//! decides is tested by the simulation and the golden files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::*;
use crate::addresses::fake::FakeAddresses;
use crate::addresses::{Addition, AddressError, AddressTable};
use crate::clock;
use crate::config::Policy;
use crate::dataplane::DataPlane;
use crate::dataplane::fake::FakePlane;
use crate::model::{
    AddressKey, BackendFailure, Endpoint, FailedBackends, FailureReason, Host, Link, LinkAddress, Mac, Port,
    Protocol, Rule, Service, ServiceName, ServicePort, Snapshot, SourceReport, State,
};
use crate::status::StatusSink;
use crate::status::fake::FakeStatuses;

pub(super) type Agent = Reconciler<FakePlane, Links, FakeStatuses>;

/// Links that fail the next so many times that they are read.
pub(super) struct Links(pub(super) FakeAddresses, u32);

impl AddressTable for Links {
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError> {
        if self.1 > 0 {
            self.1 -= 1;
            return Err(AddressError::NoSuchLink { link: "eth0".to_owned() });
        }
        self.0.observe().await
    }

    async fn host(&mut self, pods: BTreeSet<IpAddr>) -> Result<Host, AddressError> {
        self.0.host(pods).await
    }

    async fn probe(&mut self, key: &AddressKey) -> Result<Addition, AddressError> {
        self.0.probe(key).await
    }

    fn is_free(&self, key: &AddressKey) -> bool {
        self.0.is_free(key)
    }

    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<Addition, AddressError> {
        self.0.add(key, prefix_length).await
    }

    async fn remove(&mut self, key: &AddressKey, prefix_length: u8) -> Result<(), AddressError> {
        self.0.remove(key, prefix_length).await
    }

    fn conflicts(&self) -> BTreeMap<AddressKey, Mac> {
        self.0.conflicts()
    }
}

pub(super) fn agent() -> Agent {
    let mut addresses = FakeAddresses::default();
    let own = LinkAddress { net: "192.0.2.10/24".parse().unwrap(), ours: false, primary: true };
    addresses.links = vec![Link { name: "eth0".to_owned(), addresses: vec![own] }];
    let rooms = Rooms {
        plane: FakePlane::default(),
        addresses: Links(addresses, 0),
        statuses: FakeStatuses::default(),
    };
    Reconciler::new(rooms, Policy::default(), ReconcileMetrics::register(&mut Registry::default()))
}

/// This many Services on the link's own address, each with a port and a backend.
pub(super) fn services(count: usize) -> SourceReport {
    let mut snapshot = Snapshot::default();
    for number in 0..count {
        let name = ServiceName::new("default", format!("s{number}"));
        let port = Port::new(1000 + number as i64).unwrap();
        let port = ServicePort { name: None, port, protocol: Protocol::Tcp, node_port: None };
        let service = Service { wants_load_balancer: true, ports: vec![port], ..Service::default() };
        let endpoint = Endpoint {
            address: "198.51.100.1".parse().unwrap(),
            port_name: None,
            port: Port::new(8080).unwrap(),
            protocol: Protocol::Tcp,
            node: None,
            ready: true,
            serving: true,
            terminating: false,
        };
        snapshot.services.insert(name.clone(), service.into());
        snapshot.endpoints.insert(name, [endpoint].into());
    }
    SourceReport { snapshot: Some(Arc::new(snapshot)), problems: Vec::new(), interest: 0 }
}

/// A number of Services that takes three rounds.
const MANY: usize = 2 * ACTIONS + ACTIONS / 2;

/// Runs rounds until no status write is under way.
pub(super) async fn rest(agent: &mut Agent, source: &SourceReport, now: Instant) -> Report {
    loop {
        let report = agent.round(source, now).await;
        if agent.writes.wait_for_one().await.is_none() {
            return report;
        }
    }
}

#[tokio::test]
async fn a_service_that_no_longer_exists_gets_no_event() {
    let (mut agent, source, now) = (agent(), services(2), clock::now_std());
    agent.rooms.statuses.lock().gone.insert(ServiceName::new("default", "s0"));
    rest(&mut agent, &source, now).await;
    let inner = agent.rooms.statuses.lock();
    let written = inner.events.iter().filter(|event| event.reason == "EnsuredLoadBalancer");
    let sent: Vec<&str> = written.map(|event| &*event.service.name).collect();
    assert_eq!(sent, ["s1"], "{:?}", inner.events);
}

#[tokio::test]
async fn nothing_is_given_before_the_first_whole_snapshot() {
    let (mut agent, now) = (agent(), clock::now_std());
    let report = rest(&mut agent, &SourceReport::default(), now).await;
    assert_eq!((&*report.desired, report.ready), (&State::default(), false));
    assert!(agent.rooms.plane.observe().is_empty() && agent.rooms.statuses.lock().statuses.is_empty());
    let report = rest(&mut agent, &services(1), now).await;
    assert_eq!((report.desired.statuses.len(), report.ready), (1, true));
}

#[tokio::test]
async fn a_round_is_bounded_and_the_next_one_follows_at_once() {
    let (mut agent, source, now) = (agent(), services(MANY), clock::now_std());
    for served in [ACTIONS, 2 * ACTIONS] {
        let report = agent.round(&source, now).await;
        assert_eq!(report.observed.frontends.len(), served);
        assert!(!report.ready, "{served} of {MANY}");
        assert_eq!(agent.time_until_due(now), Duration::ZERO);
    }
    let report = rest(&mut agent, &source, now).await;
    assert!(report.ready);
    assert_eq!(agent.time_until_due(now), lasting::SETTLE, "then the planes are told");
    assert_eq!(report.observed.frontends.len(), MANY);
    assert_eq!(report.observed.statuses.len(), MANY);
}

#[tokio::test]
async fn serving_frontends_writes_no_status() {
    let mut agent = agent();
    let source = services(MANY);
    agent.serve_frontends(&source).await;
    assert_eq!(agent.rooms.plane.observe().len(), MANY);
    assert!(agent.rooms.statuses.observe(source.snapshot.as_ref().unwrap()).is_empty());
    let report = rest(&mut agent, &source, clock::now_std()).await;
    assert_eq!(report.observed.statuses.len(), MANY);
}

#[tokio::test]
async fn a_stop_signal_comes_before_the_next_round() {
    let mut agent = agent();
    let (_source, mut received) = watch::channel(services(MANY));
    let (report, shown) = watch::channel(Arc::new(Report::default()));
    let wakeups = Wakeups { plane: Arc::default(), links: Arc::default() };
    agent.run(&mut received, &wakeups, &report, std::future::ready(())).await;
    assert_eq!(shown.borrow().observed.frontends.len(), ACTIONS);
    agent.shut_down(&wakeups, false).await;
    assert!(agent.rooms.plane.observe().is_empty());
}

#[tokio::test]
async fn a_shut_down_removes_any_number_of_addresses() {
    let mut agent = agent();
    let wakeups = Wakeups { plane: Arc::default(), links: Arc::default() };
    let vips = (20..=250).map(|last| LinkAddress {
        net: format!("192.0.2.{last}/24").parse().unwrap(),
        ours: true,
        primary: false,
    });
    agent.rooms.addresses.0.links[0].addresses.extend(vips);
    agent.shut_down(&wakeups, false).await;
    assert_eq!(agent.rooms.addresses.0.links[0].addresses.len(), 1, "only the link's own address is left");
}

#[tokio::test]
async fn links_that_cannot_be_read_are_read_again_soon() {
    let (mut agent, source, now) = (agent(), services(1), clock::now_std());
    agent.rooms.addresses.1 = 1;
    let report = agent.round(&source, now).await;
    assert!(!report.ready);
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(agent.time_until_due(now), FIRST_RETRY);
    assert!(rest(&mut agent, &source, now).await.ready);
    let later = now + lasting::SETTLE;
    rest(&mut agent, &source, later).await;
    assert_eq!(agent.time_until_due(later), RESYNC);
}

#[tokio::test]
async fn a_shut_down_retries_but_gives_up_in_the_end() {
    let wakeups = Wakeups { plane: Arc::default(), links: Arc::default() };
    for (failures, left) in [(2, 0), (1000, 1)] {
        let (mut agent, source, now) = (agent(), services(1), clock::now_std());
        rest(&mut agent, &source, now).await;
        agent.rooms.addresses.1 = failures;
        agent.shut_down(&wakeups, false).await;
        assert_eq!(agent.rooms.plane.observe().len(), left, "{failures} failures");
    }
}

/// One Service with a VIP of its own.
pub(super) fn service_with_vip(vip: &str) -> SourceReport {
    let mut source = services(1);
    let snapshot = Arc::make_mut(source.snapshot.as_mut().unwrap());
    let service = snapshot.services.values_mut().next().unwrap();
    Arc::make_mut(service).requested_vips = vec![vip.parse().unwrap()];
    source
}

const TEN_MINUTES: Duration = Duration::from_secs(600);

/// Runs rounds from `now` for ten minutes. After each of them `undo` changes something.
/// The clock goes on when nothing else is due.
async fn rounds(agent: &mut Agent, source: &SourceReport, mut now: Instant, undo: fn(&mut Agent)) -> Report {
    let end = now + TEN_MINUTES;
    loop {
        let report = rest(agent, source, now).await;
        if now >= end {
            return report;
        }
        undo(agent);
        // Whoever changes it wakes the loop up.
        rest(agent, source, now).await;
        now += agent.time_until_due(now).max(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_vip_that_is_removed_again_and_again_is_put_back_after_growing_pauses() {
    let (mut agent, source, begin) = (agent(), service_with_vip("192.0.2.50"), clock::now_std());
    let remove = |agent: &mut Agent| agent.rooms.addresses.0.links[0].addresses.retain(|known| !known.ours);
    let report = rounds(&mut agent, &source, begin, remove).await;
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    let problem = report.problems[0].to_string();
    let expected = "Service default/s0: ChangeUndone: something removes 192.0.2.50 on eth0 again and again;";
    assert!(problem.starts_with(expected), "{problem}");
    let tried: u32 = problem.rsplit("(tried ").next().unwrap().trim_end_matches(" times)").parse().unwrap();
    assert!((10..25).contains(&tried), "{problem}");

    // It lasts, and so the problem ends.
    let healed = rounds(&mut agent, &source, begin + TEN_MINUTES, |_| ()).await;
    assert!(healed.problems.is_empty(), "{:?}", healed.problems);
    assert_eq!(healed.observed.addresses.len(), 1);
}

#[tokio::test]
async fn a_status_that_is_overwritten_again_and_again_is_written_after_growing_pauses() {
    let (mut agent, source) = (agent(), service_with_vip("192.0.2.50"));
    let clear = |agent: &mut Agent| agent.rooms.statuses.lock().statuses.clear();
    let report = rounds(&mut agent, &source, clock::now_std(), clear).await;
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    let problem = report.problems[0].to_string();
    assert!(
        problem.contains("StatusOverwritten: another program writes the status of default/s0"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_service_whose_backends_are_all_dead_has_a_problem_and_one_event_until_one_answers() {
    let (mut agent, source, start) = (agent(), services(1), clock::now_std());
    rest(&mut agent, &source, start).await;
    // By then the plane is told.
    let start = start + lasting::SETTLE;
    let served = rest(&mut agent, &source, start).await;
    let why = FailureReason::Refused;
    let dead = |rule: &Rule| -> BTreeMap<_, _> {
        rule.backends.keys().map(|backend| (*backend, BackendFailure { why, since: start })).collect()
    };
    let failed: FailedBackends =
        served.desired.frontends.iter().map(|(frontend, rule)| (*frontend, dead(rule))).collect();
    agent.rooms.plane.failed.clone_from(&failed);
    let report = rest(&mut agent, &source, start).await;
    assert_eq!((&report.failed_backends, report.problems.len()), (&failed, 0));
    assert_eq!(agent.time_until_due(start), dead_backends::PATIENCE);
    let later = start + dead_backends::PATIENCE;
    let report = rest(&mut agent, &source, later).await;
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    let problem = report.problems[0].to_string();
    assert!(problem.starts_with("Service default/s0: BackendsUnreachable: no backend of"), "{problem}");
    assert!(report.ready);

    let later = later + lasting::SETTLE;
    rest(&mut agent, &source, later).await;
    agent.rooms.plane.failed.clear();
    rest(&mut agent, &source, later).await;
    assert_eq!(agent.time_until_due(later), dead_backends::CALM);
    let report = rest(&mut agent, &source, later + dead_backends::CALM).await;
    assert_eq!(report.problems, []);
    let inner = agent.rooms.statuses.lock();
    let events = inner.events.iter().filter(|event| event.reason == "UnAvailableLoadBalancer");
    assert_eq!(events.count(), 1, "{:?}", inner.events);
}

#[tokio::test]
async fn nothing_is_served_on_a_vip_of_another_host() {
    let (mut agent, mut source, start) = (agent(), services(1), clock::now_std());
    let vip = "192.0.2.50".parse().unwrap();
    let snapshot = Arc::make_mut(source.snapshot.as_mut().unwrap());
    let service = snapshot.services.values_mut().next().unwrap();
    Arc::make_mut(service).requested_vips = vec![vip];
    agent.rooms.addresses.0.taken.insert(vip);
    for second in 0..3 {
        rest(&mut agent, &source, start + Duration::from_secs(second)).await;
    }
    assert!(agent.rooms.plane.observe().is_empty());

    agent.rooms.addresses.0.taken.clear();
    let later = start + Duration::from_secs(60);
    for second in 0..3 {
        rest(&mut agent, &source, later + Duration::from_secs(second)).await;
    }
    assert_eq!(agent.rooms.plane.observe().len(), 1);
}
