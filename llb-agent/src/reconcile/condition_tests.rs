// SPDX-License-Identifier: Apache-2.0
//! Tests of the loop with fakes, where it matters what the conditions of Services say, and how
//! often they are written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::conditions::{FIRST_WAIT, PACE, Pace, ProblemsOf, View};
use super::tests::{Agent, agent, rest, service_with_vip, services};
use crate::clock;
use crate::model::{
    Backend, Conditions, Observed, PublishedPort, PublishedStatus, PublishedVip, Rule, ServiceName, Snapshot,
    SourceReport, State, Terms, Weight,
};
use crate::plan::{Action, frontend_of};

const MINUTE: Duration = Duration::from_secs(60);

fn agent_with_conditions() -> Agent {
    let agent = agent();
    agent.rooms.statuses.lock().conditions = Some(BTreeMap::new());
    agent
}

/// Runs all rounds that are due within `time`, and returns the time after it.
async fn pass(agent: &mut Agent, source: &SourceReport, begin: Instant, time: Duration) -> Instant {
    let mut now = begin;
    while now <= begin + time {
        rest(agent, source, now).await;
        now += agent.time_until_due(now).max(Duration::from_millis(1));
    }
    begin + time
}

/// The conditions of the only Service, and how often something was written.
fn shown(agent: &Agent) -> (Conditions, u32) {
    let inner = agent.rooms.statuses.lock();
    let conditions = inner.conditions.as_ref().unwrap().get(&ServiceName::new("default", "s0"));
    (conditions.cloned().unwrap_or_default(), inner.writes)
}

/// The same as one word for each condition.
fn words(agent: &Agent) -> (String, String, u32) {
    let (conditions, writes) = shown(agent);
    let word = |condition: Option<crate::model::Condition>| {
        condition.map_or("-".to_owned(), |known| format!("{} {}", known.is_true, known.reason))
    };
    (word(conditions.programmed), word(conditions.reachable), writes)
}

fn change(source: &SourceReport, change: impl FnOnce(&mut Snapshot)) -> SourceReport {
    let mut changed = source.clone();
    change(Arc::make_mut(changed.snapshot.as_mut().unwrap()));
    changed
}

#[tokio::test]
async fn an_ordinary_service_has_its_conditions_with_its_first_and_only_write() {
    let (mut agent, source, start) =
        (agent_with_conditions(), service_with_vip("192.0.2.50"), clock::now_std());
    rest(&mut agent, &source, start).await;
    // The VIP was probed for, and is on the link.
    rest(&mut agent, &source, start).await;
    let expected = ("true Programmed".to_owned(), "true BackendsReady".to_owned(), 1);
    assert_eq!(words(&agent), expected);
    let (conditions, _) = shown(&agent);
    assert_eq!(conditions.programmed.unwrap().message, "llb serves 192.0.2.50");
    pass(&mut agent, &source, start, 10 * MINUTE).await;
    assert_eq!(words(&agent), expected);
}

#[tokio::test]
async fn backends_that_are_away_for_a_moment_cost_no_write_and_others_two() {
    let (mut agent, source, start) = (agent_with_conditions(), services(1), clock::now_std());
    let without = change(&source, |snapshot| snapshot.endpoints.clear());
    let now = pass(&mut agent, &source, start, MINUTE).await;
    let now = pass(&mut agent, &without, now, PACE / 2).await;
    let now = pass(&mut agent, &source, now, MINUTE).await;
    assert_eq!(words(&agent).2, 1);

    let now = pass(&mut agent, &without, now, MINUTE).await;
    assert_eq!(words(&agent), ("true Programmed".to_owned(), "false NoBackends".to_owned(), 2));
    pass(&mut agent, &source, now, MINUTE).await;
    assert_eq!(words(&agent), ("true Programmed".to_owned(), "true BackendsReady".to_owned(), 3));
    let published = agent.rooms.statuses.lock().statuses.values().cloned().collect::<Vec<PublishedStatus>>();
    assert_eq!(published.len(), 1, "it keeps its VIP: {published:?}");
}

#[tokio::test]
async fn a_refused_service_says_why_in_one_write() {
    let (mut agent, source, start) =
        (agent_with_conditions(), service_with_vip("198.51.100.1"), clock::now_std());
    let now = pass(&mut agent, &source, start, PACE / 2).await;
    assert_eq!(words(&agent).2, 0, "it may be over in a moment");
    pass(&mut agent, &source, now, 10 * MINUTE).await;
    assert_eq!(words(&agent), ("false AddressNotAllowed".to_owned(), "-".to_owned(), 1));
    let message = shown(&agent).0.programmed.unwrap().message;
    assert!(message.contains("--allow-vips"), "{message}");
}

#[tokio::test]
async fn a_service_of_another_type_has_no_conditions() {
    let (mut agent, source, start) = (agent_with_conditions(), services(1), clock::now_std());
    let now = pass(&mut agent, &source, start, MINUTE).await;
    let conditions = shown(&agent).0;
    let other = change(&source, |snapshot| {
        let service = Arc::make_mut(snapshot.services.values_mut().next().unwrap());
        (service.wants_load_balancer, service.conditions) = (false, conditions);
    });
    // The API server clears the status, but not the conditions.
    agent.rooms.statuses.lock().statuses.clear();
    pass(&mut agent, &other, now, MINUTE).await;
    assert_eq!(words(&agent), ("-".to_owned(), "-".to_owned(), 2));
}

#[test]
fn the_first_status_waits_for_a_backend_but_not_for_long() {
    let name = ServiceName::new("default", "s0");
    let source = services(1);
    let snapshot = source.snapshot.as_ref().unwrap();
    let port = PublishedPort { port: 80, protocol: "TCP".to_owned(), error: None };
    let vip = PublishedVip { ip: "192.0.2.50".parse().unwrap(), proxy: true, ports: vec![port] };
    let status = PublishedStatus { vips: [vip].into(), ..PublishedStatus::default() };
    let frontend = frontend_of(status.vips[0].ip, &status.vips[0].ports[0]).unwrap();
    let backend = Backend { address: "198.51.100.1:8080".parse().unwrap() };
    let (problems, start) = (ProblemsOf::new(), clock::now_std());
    let held = |backends: &[Backend], observed: &Observed, pace: &mut Pace, now| {
        let backends = backends.iter().map(|backend| (*backend, Weight::MIN)).collect();
        let rule = Rule::new(name.clone(), backends, Terms::default());
        let desired = State {
            statuses: [(name.clone(), status.clone())].into(),
            frontends: [(frontend, rule.into())].into(),
            ..State::default()
        };
        let mut due = vec![Action::WriteStatus { service: name.clone(), status: status.clone() }];
        pace.hold_first(&mut due, &View::new((snapshot, &problems), &desired, observed, "a"), now);
        due.is_empty()
    };
    let (mut pace, new) = (Pace::default(), Observed::default());
    assert!(!held(&[backend], &new, &mut pace, start));
    assert!(held(&[], &new, &mut pace, start));
    assert_eq!(pace.next(), Some(start + FIRST_WAIT));
    assert!(!held(&[], &new, &mut pace, start + FIRST_WAIT));
    assert_eq!(pace.next(), None, "a write that is refused or delayed is retried at the machine's pace");
    let published = Observed { statuses: [(name.clone(), status.clone())].into(), ..Observed::default() };
    assert!(!held(&[], &published, &mut Pace::default(), start), "only the first one waits");
}
