// SPDX-License-Identifier: Apache-2.0
//! Tests of the order of a plan and of the preconditions. Whole histories are in
//! the golden and simulation tests.

use std::collections::BTreeSet;

use super::*;
use crate::model::{
    AddressKey, Backend, Finalizer, FrontendStatus, Port, Protocol, PublishedPort, PublishedStatus,
    PublishedVip, ServiceName, Terms, Weight,
};

const VIP: &str = "192.0.2.50";

fn frontend(port: i64) -> Frontend {
    Frontend { vip: VIP.parse().unwrap(), port: Port::new(port).unwrap(), protocol: Protocol::Tcp }
}

fn rule(backends: &[&str]) -> Arc<Rule> {
    let backend = |text: &&str| (Backend { address: text.parse().unwrap() }, Weight::MIN);
    let backends = backends.iter().map(backend).collect();
    Arc::new(Rule::new(ServiceName::new("default", "web"), backends, Terms::default()))
}

fn key(link: &str) -> AddressKey {
    AddressKey { link: link.to_owned(), address: VIP.parse().unwrap() }
}

/// One Service on port 80, with one backend.
fn desired() -> State {
    let service = ServiceName::new("default", "web");
    let port = PublishedPort { port: 80, protocol: "TCP".to_owned(), error: None };
    let status = PublishedStatus {
        vips: [PublishedVip { ip: VIP.parse().unwrap(), proxy: true, ports: vec![port] }].into(),
        ..PublishedStatus::default()
    };
    State {
        frontends: [(frontend(80), rule(&["198.51.100.1:8080"]))].into(),
        addresses: [(key("eth0"), 24)].into(),
        statuses: [(service, status)].into(),
        ..State::default()
    }
}

fn kinds(desired: &State, observed: &Observed) -> Vec<String> {
    let held = hold_back(plan(desired, observed), &BTreeSet::new(), desired, observed);
    held.now.iter().map(ToString::to_string).collect()
}

/// The Service of [`desired`] is served.
fn served() -> Observed {
    let status = FrontendStatus::relayed(rule(&["198.51.100.1:8080"]), Phase::Serving);
    Observed { frontends: [(frontend(80), status)].into(), ..Observed::default() }
}

#[test]
fn each_step_waits_for_the_one_before() {
    let (desired, mut observed) = (desired(), Observed::default());
    assert_eq!(kinds(&desired, &observed), ["probe for 192.0.2.50 on eth0"]);
    observed.free.insert(VIP.parse().unwrap());
    assert_eq!(kinds(&desired, &observed), ["serve 192.0.2.50:80/TCP for default/web by 1 backends"]);
    observed.frontends = served().frontends;
    assert_eq!(kinds(&desired, &observed), ["add 192.0.2.50/24 to eth0"]);
    observed.addresses.insert(key("eth0"), 24);
    assert_eq!(kinds(&desired, &observed), ["publish for default/web: 192.0.2.50"]);
    observed.statuses = desired.statuses.clone();
    assert_eq!(kinds(&desired, &observed), [""; 0]);
}

#[test]
fn a_link_gets_addresses_when_the_data_plane_serves_there() {
    let (desired, mut observed) = (desired(), served());
    observed.free.insert(VIP.parse().unwrap());
    observed.unready_links.insert("eth0".to_owned());
    assert_eq!(kinds(&desired, &observed), [""; 0]);
    observed.unready_links.clear();
    assert_eq!(kinds(&desired, &observed), ["add 192.0.2.50/24 to eth0"]);
}

#[test]
fn a_vip_of_another_box_is_served_and_published_without_its_address() {
    let (mut desired, mut observed) = (desired(), Observed::default());
    desired.elsewhere = std::mem::take(&mut desired.addresses);
    assert_eq!(
        kinds(&desired, &observed),
        ["serve 192.0.2.50:80/TCP for default/web by 1 backends"],
        "no probe"
    );
    observed.frontends = served().frontends;
    assert_eq!(kinds(&desired, &observed), ["publish for default/web: 192.0.2.50"]);
    observed.statuses = desired.statuses.clone();
    assert_eq!(kinds(&desired, &observed), [""; 0]);

    observed.addresses.insert(key("eth0"), 24);
    assert_eq!(kinds(&desired, &observed), ["remove 192.0.2.50/24 from eth0"], "although it is served");
    observed.addresses.clear();
    desired.addresses = std::mem::take(&mut desired.elsewhere);
    assert_eq!(kinds(&desired, &observed), ["add 192.0.2.50/24 to eth0"], "a takeover takes one step");
}

#[test]
fn an_address_stays_while_a_frontend_drains() {
    let mut observed = Observed::default();
    observed.addresses.insert(key("eth0"), 24);
    observed.frontends.insert(frontend(80), FrontendStatus::relayed(rule(&[]), Phase::Draining));
    assert_eq!(kinds(&State::default(), &observed), [""; 0]);
    observed.frontends.clear();
    assert_eq!(kinds(&State::default(), &observed), ["remove 192.0.2.50/24 from eth0"]);
}

#[test]
fn a_vip_that_moves_is_added_before_it_is_removed() {
    let mut observed = Observed::default();
    observed
        .frontends
        .insert(frontend(80), FrontendStatus::relayed(rule(&["198.51.100.1:8080"]), Phase::Serving));
    observed.addresses.insert(key("eth1"), 32);
    observed.statuses = desired().statuses;
    let actions = kinds(&desired(), &observed);
    assert_eq!(actions, ["add 192.0.2.50/24 to eth0", "remove 192.0.2.50/32 from eth1"]);
}

#[test]
fn a_vip_without_a_backend_is_published_when_it_is_placed() {
    let mut desired = desired();
    desired.frontends.insert(frontend(80), rule(&[]));
    let mut observed = Observed::default();
    observed.addresses.insert(key("eth0"), 24);
    assert_eq!(kinds(&desired, &observed), ["serve 192.0.2.50:80/TCP for default/web by 0 backends"]);
    observed.frontends.insert(frontend(80), FrontendStatus::relayed(rule(&[]), Phase::Serving));
    observed.addresses.clear();
    assert_eq!(kinds(&desired, &observed), ["add 192.0.2.50/24 to eth0"]);
    observed.addresses.insert(key("eth0"), 24);
    assert_eq!(kinds(&desired, &observed), ["publish for default/web: 192.0.2.50"]);
    observed.statuses = desired.statuses.clone();
    assert_eq!(kinds(&desired, &observed), [""; 0]);
}

#[test]
fn a_vip_with_nothing_but_errors_is_not_published() {
    let mut desired = desired();
    for status in desired.statuses.values_mut() {
        let mut vip = status.vips[0].clone();
        vip.ports[0].error = Some("llb.dev/NoNodePort".to_owned());
        status.vips = [vip].into();
    }
    let mut observed = Observed::default();
    observed
        .frontends
        .insert(frontend(80), FrontendStatus::relayed(rule(&["198.51.100.1:8080"]), Phase::Serving));
    observed.addresses.insert(key("eth0"), 24);
    assert_eq!(kinds(&desired, &observed), [""; 0]);
}

#[test]
fn a_port_that_is_not_served_says_so() {
    let mut desired = desired();
    desired.frontends.insert(frontend(81), rule(&["198.51.100.1:8081"]));
    for status in desired.statuses.values_mut() {
        let mut vip = status.vips[0].clone();
        vip.ports.push(PublishedPort { port: 81, protocol: "TCP".to_owned(), error: None });
        status.vips = [vip].into();
    }
    let mut observed = Observed::default();
    observed
        .frontends
        .insert(frontend(80), FrontendStatus::relayed(rule(&["198.51.100.1:8080"]), Phase::Serving));
    observed.addresses.insert(key("eth0"), 24);
    let write = plan(&desired, &observed).into_iter().find_map(|action| match action {
        Action::WriteStatus { status, .. } => Some(status),
        _ => None,
    });
    let errors: Vec<_> = write.unwrap().vips[0].ports.iter().map(|port| port.error.clone()).collect();
    assert_eq!(errors, [None, Some(NOT_SERVED.to_owned())]);
}

/// The Service is gone or going, and what was published for it is still there.
fn going(is_deleted: bool) -> (State, Observed) {
    let service = ServiceName::new("default", "web");
    let mut goal = State::default();
    goal.statuses.insert(service.clone(), PublishedStatus::default());
    if is_deleted {
        goal.leaving.insert(service);
    }
    let mut observed = Observed { statuses: desired().statuses, ..Observed::default() };
    for status in observed.statuses.values_mut() {
        status.finalizer = Finalizer::Ours;
    }
    observed.frontends.insert(frontend(80), FrontendStatus::relayed(rule(&[]), Phase::Draining));
    observed.addresses.insert(key("eth0"), 24);
    (goal, observed)
}

#[test]
fn the_finalizer_comes_with_the_first_status() {
    let (mut desired, mut observed) = (desired(), Observed::default());
    for status in desired.statuses.values_mut() {
        status.finalizer = Finalizer::Ours;
    }
    observed
        .frontends
        .insert(frontend(80), FrontendStatus::relayed(rule(&["198.51.100.1:8080"]), Phase::Serving));
    assert_eq!(kinds(&desired, &observed), ["add 192.0.2.50/24 to eth0"]);
    observed.addresses.insert(key("eth0"), 24);
    assert_eq!(kinds(&desired, &observed), ["publish for default/web: 192.0.2.50, with finalizer"]);
}

#[test]
fn a_deleted_service_is_written_once_when_its_vip_is_gone() {
    let (goal, mut observed) = going(true);
    assert_eq!(kinds(&goal, &observed), [""; 0], "a frontend drains");
    observed.frontends.clear();
    assert_eq!(kinds(&goal, &observed), ["remove 192.0.2.50/24 from eth0"]);
    observed.addresses.clear();
    assert_eq!(kinds(&goal, &observed), ["clear the status of default/web"]);
}

#[test]
fn a_service_that_is_no_load_balancer_any_more_loses_its_finalizer_last() {
    let (goal, mut observed) = going(false);
    assert_eq!(kinds(&goal, &observed), ["clear the status of default/web, with finalizer"]);
    for status in observed.statuses.values_mut() {
        status.vips = [].into();
    }
    assert_eq!(kinds(&goal, &observed), [""; 0]);
    observed.frontends.clear();
    observed.addresses.clear();
    assert_eq!(kinds(&goal, &observed), ["clear the status of default/web"]);
}

#[test]
fn a_finalizer_of_others_is_neither_wanted_nor_removed() {
    let (goal, mut observed) = going(false);
    for status in observed.statuses.values_mut() {
        *status = PublishedStatus { finalizer: Finalizer::Foreign, ..PublishedStatus::default() };
    }
    assert_eq!(kinds(&goal, &observed), [""; 0]);
}

#[test]
fn our_finalizer_goes_when_it_is_switched_off() {
    let mut observed = going(false).1;
    let status = FrontendStatus::relayed(rule(&["198.51.100.1:8080"]), Phase::Serving);
    observed.frontends.insert(frontend(80), status);
    assert_eq!(kinds(&desired(), &observed), ["publish for default/web: 192.0.2.50"]);
}

#[test]
fn a_frontend_does_not_wait_if_its_vip_is_the_machines() {
    let (mut desired, mut observed) = (desired(), Observed::default());
    let serve = "serve 192.0.2.50:80/TCP for default/web by 1 backends";
    // It moves, or another agent has added it.
    observed.addresses.insert(key("eth1"), 32);
    assert_eq!(kinds(&desired, &observed)[..2], ["probe for 192.0.2.50 on eth0", serve]);
    observed.addresses.clear();
    desired.addresses.clear();
    assert_eq!(kinds(&desired, &observed), [""; 0], "no link device is left");
    desired.on_own_addresses.insert(frontend(80));
    assert_eq!(kinds(&desired, &observed), [serve]);
}

#[test]
fn a_frontend_that_waits_for_its_vip_is_still_planned() {
    let held = |desired: &State, observed: &Observed| {
        hold_back(plan(desired, observed), &BTreeSet::new(), desired, observed).waiting
    };
    let (desired, mut observed) = (desired(), Observed::default());
    assert_eq!(held(&desired, &observed), [ActionKey::Frontend(frontend(80))].into());
    observed.free.insert(VIP.parse().unwrap());
    assert_eq!(held(&desired, &observed), [].into());
    // A lost VIP is served all the same, because it is back at once in most cases.
    let mut other = desired.clone();
    other.frontends.insert(frontend(80), rule(&["198.51.100.9:8080"]));
    assert_eq!(held(&other, &served()), [].into());
}

#[test]
fn a_vip_of_another_host_is_not_served_and_when_that_is_certain_not_published() {
    let (desired, mut observed) = (desired(), served());
    observed.statuses = desired.statuses.clone();
    observed.taken.insert(VIP.parse().unwrap(), 1);
    let probe = "probe for 192.0.2.50 on eth0";
    assert_eq!(kinds(&desired, &observed), [probe, "end 192.0.2.50:80/TCP"]);
    observed.frontends.clear();
    assert_eq!(kinds(&desired, &observed), [probe]);
    observed.taken.insert(VIP.parse().unwrap(), CONFIRMED);
    let not_probing = |desired: &State, observed: &Observed| {
        let actions = plan(desired, observed).into_iter();
        let others = actions.filter(|action| !matches!(action, Action::ProbeAddress { .. }));
        others.map(|action| action.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(not_probing(&desired, &observed), ["clear the status of default/web"]);
    observed.statuses.clear();
    assert_eq!(not_probing(&desired, &observed), [""; 0]);
}

#[test]
fn without_its_link_a_vip_is_not_published_and_what_is_published_stays_as_it_is() {
    let (mut desired, mut observed) = (desired(), served());
    desired.addresses.clear();
    assert_eq!(kinds(&desired, &observed), [""; 0]);
    observed.statuses = desired.statuses.clone();
    observed.frontends.clear();
    assert_eq!(kinds(&desired, &observed), [""; 0], "not with an error of its port either");
}

#[test]
fn a_frontend_that_another_plane_could_serve_is_placed_anew() {
    let (desired, mut observed) = (desired(), served());
    observed.addresses.insert(key("eth0"), 24);
    observed.statuses = desired.statuses.clone();
    assert_eq!(kinds(&desired, &observed), [""; 0]);
    observed.frontends.get_mut(&frontend(80)).unwrap().is_misplaced = true;
    assert_eq!(kinds(&desired, &observed), ["serve 192.0.2.50:80/TCP for default/web by 1 backends"]);
}

#[test]
fn a_mode_that_the_api_does_not_keep_is_not_written_again() {
    let (desired, mut observed) = (desired(), served());
    observed.addresses.insert(key("eth0"), 24);
    observed.statuses = desired.statuses.clone();
    let status = observed.statuses.values_mut().next().unwrap();
    let vips = status.vips.iter().map(|vip| PublishedVip { proxy: false, ..vip.clone() });
    status.vips = vips.collect();
    assert_eq!(
        kinds(&desired, &observed),
        ["publish for default/web: 192.0.2.50"],
        "somebody wrote ipMode VIP"
    );
    observed.statuses.values_mut().next().unwrap().modes_untold = true;
    assert_eq!(kinds(&desired, &observed), [""; 0]);
}
