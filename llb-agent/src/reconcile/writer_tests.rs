// SPDX-License-Identifier: Apache-2.0
//! Tests of the loop with fakes, where it matters who writes statuses and Events, and how often.

use std::sync::Arc;
use std::time::Duration;

use super::tests::{Agent, agent, rest, service_with_vip, services};
use crate::clock;
use crate::model::{PublishedStatus, PublishedVip, Role, ServiceName};

/// Two agents with the same statuses and different addresses, and no pool: each publishes its own.
fn two_agents() -> [Agent; 2] {
    let [one, mut two] = [agent(), agent()];
    two.rooms.statuses = one.rooms.statuses.clone();
    two.rooms.addresses.0.links[0].addresses[0].net = "192.0.2.11/24".parse().unwrap();
    [one, two]
}

/// Another agent publishes `vip` for the only Service.
fn publish(agent: &Agent, vip: std::net::IpAddr) {
    let published = PublishedVip { ip: vip, proxy: true, ports: Vec::new() };
    let status = PublishedStatus { vips: [published].into(), ..PublishedStatus::default() };
    agent.rooms.statuses.lock().statuses.insert(ServiceName::new("default", "s0"), status);
}

#[tokio::test]
async fn two_writers_do_not_fight_for_ever_and_say_it_once() {
    let ([mut one, mut two], source, begin) = (two_agents(), services(1), clock::now_std());
    let mut written = Vec::new();
    for second in 0..600 {
        let now = begin + Duration::from_secs(second);
        for agent in [&mut one, &mut two] {
            rest(agent, &source, now).await;
            written.push(agent.rooms.statuses.lock().statuses.clone());
        }
    }
    written.dedup();
    assert!(written.len() <= 13, "{} writes", written.len());
    let events = one.rooms.statuses.lock().events.clone();
    let of = |reason| events.iter().filter(|event| event.reason == reason).count();
    assert!(of("StatusOverwritten") <= 2 && of("StatusOverwritten") >= 1, "{events:?}");
    assert!(events.len() <= 8, "{events:?}");
}

#[tokio::test]
async fn the_agent_without_the_lease_serves_and_writes_nothing() {
    let (mut agent, source, start) = (agent(), services(2), clock::now_std());
    let other = Role::Other("box-2".to_owned());
    agent.rooms.statuses.lock().writer.role = other;
    let report = rest(&mut agent, &source, start).await;
    assert!(report.ready && report.observed.frontends.len() == 2, "{report:?}");
    let ten = start + Duration::from_secs(10);
    let report = rest(&mut agent, &source, ten).await;
    assert!(report.observed.statuses.is_empty(), "{:?}", report.observed.statuses);
    assert!(agent.rooms.statuses.lock().events.is_empty());
    assert!(agent.time_until_due(ten) > Duration::ZERO);

    // The other one is gone.
    agent.rooms.statuses.lock().writer.role = Role::Elected;
    let report = rest(&mut agent, &source, ten).await;
    assert_eq!(report.observed.statuses.len(), 2);
    // The API server does not answer: what is served stays.
    agent.rooms.statuses.lock().writer.role = Role::Unknown;
    let report = rest(&mut agent, &source, ten).await;
    assert_eq!((report.observed.frontends.len(), report.observed.statuses.len()), (2, 2));
}

#[tokio::test]
async fn the_agent_without_the_lease_takes_no_vip_that_is_not_published() {
    let (mut agent, source, start) = (agent(), service_with_vip("192.0.2.50"), clock::now_std());
    agent.rooms.statuses.lock().writer.role = Role::Other("box-2".to_owned());
    let report = rest(&mut agent, &source, start).await;
    assert!(report.observed.addresses.is_empty() && report.observed.frontends.is_empty(), "{report:?}");

    // The writer has published it, and has it: the probe is answered.
    let vip: std::net::IpAddr = "192.0.2.50".parse().unwrap();
    publish(&agent, vip);
    agent.rooms.addresses.0.taken.insert(vip);
    let report = rest(&mut agent, &source, start).await;
    assert!(report.observed.addresses.is_empty(), "{report:?}");
    assert!(report.problems.is_empty(), "the writer has it, and that is no problem: {:?}", report.problems);

    // The writer is gone, with its VIPs.
    agent.rooms.addresses.0.taken.clear();
    agent.rooms.statuses.lock().writer.role = Role::Elected;
    let report = rest(&mut agent, &source, start).await;
    assert_eq!(report.observed.addresses.len(), 1, "at once: {report:?}");
    // It loses the Lease, and keeps the VIP.
    agent.rooms.statuses.lock().writer.role = Role::Other("box-2".to_owned());
    let report = rest(&mut agent, &source, start).await;
    assert_eq!((report.observed.addresses.len(), report.observed.frontends.len()), (1, 1));
}

#[tokio::test]
async fn nothing_is_said_about_what_is_over_in_the_same_moment() {
    let (mut agent, whole, start) = (agent(), services(1), clock::now_std());
    let mut before = whole.clone();
    Arc::make_mut(before.snapshot.as_mut().unwrap()).endpoints.clear();
    let report = rest(&mut agent, &before, start).await;
    assert_eq!(report.problems.len(), 1, "/state shows it at once: {:?}", report.problems);
    rest(&mut agent, &whole, start).await;
    for second in 0..20 {
        rest(&mut agent, &whole, start + Duration::from_secs(second)).await;
    }
    let reasons: Vec<&str> = agent.rooms.statuses.lock().events.iter().map(|event| event.reason).collect();
    assert_eq!(reasons, ["EnsuredLoadBalancer", "PlaneChosen"], "a Service has two Events");

    // What lasts is said, without another change.
    rest(&mut agent, &before, start).await;
    let wait = agent.time_until_due(start);
    assert!(wait <= Duration::from_secs(3), "{wait:?}");
    rest(&mut agent, &before, start + wait).await;
    let last = agent.rooms.statuses.lock().events.pop().unwrap();
    assert_eq!(last.reason, "UnAvailableLoadBalancer");
}

#[tokio::test]
async fn a_new_writer_leaves_published_what_the_former_one_serves() {
    // Pending: the agent was the writer, and is back so soon that it still has the Lease.
    for before in [Role::Other("box-2".to_owned()), Role::Pending] {
        leaves_published_what_another_serves(before).await;
    }
}

async fn leaves_published_what_another_serves(before: Role) {
    let (mut agent, source, start) = (agent(), service_with_vip("192.0.2.50"), clock::now_std());
    let vip: std::net::IpAddr = "192.0.2.50".parse().unwrap();
    publish(&agent, vip);
    agent.rooms.addresses.0.taken.insert(vip);
    agent.rooms.statuses.lock().writer.role = before;
    rest(&mut agent, &source, start).await;
    agent.rooms.statuses.lock().writer.role = Role::Elected;
    for second in 0..120 {
        let report = rest(&mut agent, &source, start + Duration::from_secs(second)).await;
        assert_eq!(report.observed.statuses.len(), 1, "in second {second}: {:?}", report.problems);
    }
    agent.rooms.addresses.0.taken.clear();
    for second in 120..240 {
        rest(&mut agent, &source, start + Duration::from_secs(second)).await;
    }
    assert!(agent.rooms.addresses.0.links[0].addresses.iter().any(|known| known.net.addr() == vip));
}
