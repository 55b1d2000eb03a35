// SPDX-License-Identifier: Apache-2.0
//! Which backends a frontend chooses: their shares, and after failures.

use std::collections::BTreeMap;
use std::time::Duration;

use super::candidates::FAILURE_MEMORY;
use super::*;
use crate::clock;
use crate::model::{Balance, Port, ServiceName, Terms, Weight};

fn backend(last_octet: u8) -> Backend {
    Backend { address: ([192, 0, 2, last_octet], 80).into() }
}

fn rule(balance: Balance, backends: &[(u8, u16)]) -> Arc<Rule> {
    let backends =
        backends.iter().map(|&(octet, weight)| (backend(octet), Weight::new(weight).unwrap())).collect();
    let terms = Terms { balance: Some(balance), ..Terms::default() };
    Arc::new(Rule::new(ServiceName::new("default", "web"), backends, terms))
}

fn equal(backends: &[u8]) -> Arc<Rule> {
    rule(Balance::LeastConnections, &backends.iter().map(|octet| (*octet, 1)).collect::<Vec<_>>())
}

fn new_selection() -> Selection {
    let frontend =
        Frontend { vip: [198, 51, 100, 7].into(), port: Port::new(80).unwrap(), protocol: Protocol::Tcp };
    Selection::new(frontend, Traffic::default())
}

fn criteria(client_port: u16) -> Criteria<'static> {
    Criteria { client: ([203, 0, 113, 1], client_port).into(), preferred: None, tried: &[] }
}

/// The choice for one connection that ends at once.
fn choice(selection: &Selection, rule: &Arc<Rule>, criteria: Criteria<'_>, now: Instant) -> u8 {
    match selection.next(rule, criteria, now).unwrap().backend.address.ip() {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => unreachable!(),
    }
}

fn choices(selection: &Selection, rule: &Arc<Rule>, now: Instant, count: u16) -> Vec<u8> {
    (0..count).map(|port| choice(selection, rule, criteria(1024 + port), now)).collect()
}

fn shares(choices: &[u8]) -> BTreeMap<u8, usize> {
    let mut shares = BTreeMap::new();
    for choice in choices {
        *shares.entry(*choice).or_default() += 1;
    }
    shares
}

fn answer(selection: &Selection, rule: &Arc<Rule>, octet: u8, now: Instant) {
    let all = rule.backends.keys().copied();
    let others: Vec<Backend> = all.filter(|other| *other != backend(octet)).collect();
    let chosen = selection.next(rule, Criteria { tried: &others, ..criteria(1) }, now).unwrap();
    selection.answered(&chosen);
}

#[test]
fn without_open_connections_backends_take_turns_by_weight() {
    let now = clock::now();
    assert_eq!(choices(&new_selection(), &equal(&[1, 2, 3]), now, 7), [1, 2, 3, 1, 2, 3, 1]);
    let weighted = rule(Balance::LeastConnections, &[(1, 1), (2, 3)]);
    let shares = shares(&choices(&new_selection(), &weighted, now, 400));
    assert_eq!(shares, [(1, 100), (2, 300)].into());
}

#[test]
fn a_backend_with_many_open_connections_gets_fewer_until_all_are_even() {
    let (selection, rule, now) = (new_selection(), equal(&[1, 2, 3, 4]), clock::now());
    let others = [1, 2, 3].map(backend);
    let stuck = Criteria { tried: &others, ..criteria(1) };
    let mut open: Vec<Chosen> = (0..100).map(|_| selection.next(&rule, stuck, now).unwrap()).collect();
    open.extend((0..300).map(|_| selection.next(&rule, criteria(1), now).unwrap()));
    let mut counts = BTreeMap::new();
    for chosen in &open {
        *counts.entry(chosen.backend).or_insert(0) += 1;
    }
    assert!(counts.values().all(|count| (80..=140).contains(count)), "{counts:?}");

    // Ended connections no longer count: backends take turns again.
    drop(open);
    assert_eq!(shares(&choices(&selection, &rule, now, 400)).into_values().collect::<Vec<_>>(), [100; 4]);
}

#[test]
fn maglev_gives_a_flow_the_same_backend_and_shares_by_weight() {
    let rule = rule(Balance::Maglev, &[(1, 1), (2, 2), (3, 5)]);
    let now = clock::now();
    let first = choices(&new_selection(), &rule, now, 8000);
    assert_eq!(first, choices(&new_selection(), &rule, now, 8000));
    for (octet, count) in shares(&first) {
        let ideal = 1000 * [1, 2, 5][usize::from(octet) - 1];
        assert!(count.abs_diff(ideal) < ideal / 10, "{octet}: {count} instead of {ideal}");
    }
}

#[test]
fn maglev_spreads_the_flows_of_a_failed_backend_and_moves_no_others() {
    let rule = rule(Balance::Maglev, &[(1, 1), (2, 1), (3, 1), (4, 1)]);
    let (selection, now) = (new_selection(), clock::now());
    let before = choices(&selection, &rule, now, 4000);
    selection.failed(backend(2), FailureReason::Refused, now);
    let after = choices(&selection, &rule, now, 4000);
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == 2));
    let heirs = before.iter().zip(&after).filter(|(before, _)| **before == 2).map(|(_, after)| *after);
    let shares = shares(&heirs.collect::<Vec<_>>());
    assert!(shares.len() == 3 && shares.values().all(|count| (200..470).contains(count)), "{shares:?}");
}

#[test]
fn with_affinity_maglev_looks_at_the_client_address_only() {
    let mut rule = Rule::clone(&rule(Balance::Maglev, &[(1, 1), (2, 1), (3, 1)]));
    rule.terms.affinity_timeout = Some(Duration::from_secs(600));
    let rule = Arc::new(rule);
    let chosen = choices(&new_selection(), &rule, clock::now(), 100);
    assert_eq!(shares(&chosen).len(), 1, "{chosen:?}");
}

#[test]
fn a_preferred_backend_is_chosen_while_it_is_there_and_not_avoided() {
    let now = clock::now();
    for balance in [Balance::LeastConnections, Balance::Maglev] {
        let (selection, rule) = (new_selection(), rule(balance, &[(1, 1), (2, 1), (3, 1)]));
        let prefer = |octet| Criteria { preferred: Some(backend(octet).address.ip()), ..criteria(1) };
        assert_eq!(choice(&selection, &rule, prefer(2), now), 2);
        assert_ne!(choice(&selection, &rule, Criteria { tried: &[backend(2)], ..prefer(2) }, now), 2);
        assert_ne!(choice(&selection, &rule, prefer(9), now), 9);
        selection.failed(backend(2), FailureReason::Refused, now);
        assert_ne!(choice(&selection, &rule, prefer(2), now), 2);
    }
}

#[test]
fn a_failed_backend_is_avoided_and_its_share_is_spread_evenly() {
    let (selection, rule, now) = (new_selection(), equal(&[1, 2, 3, 4]), clock::now());
    choices(&selection, &rule, now, 4);
    selection.failed(backend(2), FailureReason::Refused, now);
    assert_eq!(shares(&choices(&selection, &rule, now, 300)), [(1, 100), (3, 100), (4, 100)].into());
}

#[test]
fn one_connection_tries_a_failed_backend_again_and_each_failure_doubles_the_wait() {
    let (selection, rule, start) = (new_selection(), equal(&[1, 2]), clock::now());
    let tries = |now| choices(&selection, &rule, now, 10).iter().filter(|choice| **choice == 2).count();
    assert_eq!(tries(start), 5);
    selection.failed(backend(2), FailureReason::Refused, start);
    // A connection that began before the first failure.
    selection.failed(backend(2), FailureReason::Refused, start);
    let mut now = start;
    for wait in [5, 10, 20, 40, 60, 60] {
        assert_eq!(tries(now + Duration::from_secs(wait) - Duration::from_millis(1)), 0, "before {wait} s");
        now += Duration::from_secs(wait);
        assert_eq!(tries(now), 1, "after {wait} s");
        selection.failed(backend(2), FailureReason::Refused, now);
    }
    now += Duration::from_secs(60);
    assert_eq!(tries(now), 1);
    answer(&selection, &rule, 2, now);
    assert_eq!(tries(now), 5);
    selection.failed(backend(2), FailureReason::Refused, now);
    assert_eq!(tries(now + FAILURE_MEMORY), 1, "the waits start again");
}

#[test]
fn a_backend_is_dead_from_its_first_failure_to_its_first_answer() {
    let (selection, rule, start) = (new_selection(), equal(&[1, 2]), clock::now());
    choices(&selection, &rule, start, 2);
    let second = |number| start + Duration::from_secs(number);
    assert!(selection.failed(backend(2), FailureReason::Refused, second(1)));
    assert!(!selection.failed(backend(2), FailureReason::Refused, second(2)), "no news");
    assert!(!selection.failed(backend(2), FailureReason::TimedOut, second(60)));
    let expected = BackendFailure { why: FailureReason::TimedOut, since: second(1).into_std() };
    assert_eq!(selection.failing(), [(backend(2), expected)].into());
    choices(&selection, &equal(&[1]), second(61), 1);
    assert!(selection.failing().is_empty(), "it left the rule");
    choices(&selection, &rule, second(62), 2);
    assert!(selection.failed(backend(2), FailureReason::Refused, second(63)));
    answer(&selection, &rule, 2, second(200));
    assert!(selection.failing().is_empty());
}

#[test]
fn if_all_backends_failed_they_are_all_tried() {
    let (selection, rule, now) = (new_selection(), equal(&[1, 2]), clock::now());
    choices(&selection, &rule, now, 2);
    selection.failed(backend(1), FailureReason::Refused, now);
    selection.failed(backend(2), FailureReason::Refused, now);
    let [one, two] = [1, 2].map(backend);
    assert_eq!(choice(&selection, &rule, Criteria { tried: &[one], ..criteria(1) }, now), 2);
    assert!(selection.next(&rule, Criteria { tried: &[one, two], ..criteria(1) }, now).is_none());
    assert!(selection.next(&equal(&[]), criteria(1), now).is_none());
}

#[test]
fn a_new_rule_keeps_the_failures_of_backends_that_stay() {
    let (selection, now) = (new_selection(), clock::now());
    choices(&selection, &equal(&[1, 2, 3]), now, 3);
    selection.failed(backend(1), FailureReason::Refused, now);
    selection.failed(backend(2), FailureReason::Refused, now);
    let rule = equal(&[2, 3]);
    assert_eq!(choices(&selection, &rule, now, 3), [3, 3, 3]);
    assert_eq!(
        shares(&choices(&selection, &equal(&[1, 3]), now, 4)).len(),
        2,
        "a backend that left is forgotten"
    );
}
