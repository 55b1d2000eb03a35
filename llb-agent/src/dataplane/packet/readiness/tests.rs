// SPDX-License-Identifier: Apache-2.0
//! Nodes that answer canaries, send them back, or do neither.

use super::*;
use crate::clock;
use crate::model::Port;

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 100));
const MOST: usize = 100;

fn frontend(port: i64, protocol: Protocol) -> Frontend {
    Frontend { vip: VIP, port: Port::new(port).unwrap(), protocol }
}

fn node(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

fn nodes(all: &[u8]) -> BTreeSet<IpAddr> {
    all.iter().map(|n| node(*n)).collect()
}

fn web(n: u8) -> Pair {
    Pair { frontend: frontend(80, Protocol::Tcp), node: node(n) }
}

fn new(all: &[u8]) -> Readiness {
    let mut readiness = Readiness::default();
    readiness.follow(web(1).frontend, &nodes(all), |_| false);
    readiness
}

/// Looks all the time until the Node gets clients, or for a minute: after how many milliseconds. `hear` is asked
/// about each canary.
fn ready_after(
    readiness: &mut Readiness,
    pair: Pair,
    can_ask: bool,
    mut hear: impl FnMut(u64) -> Option<Heard>,
) -> Option<u64> {
    let start = clock::now();
    readiness.vip_is_here(VIP, start);
    for millis in (0..60_000).step_by(50) {
        let advance = readiness.advance(start + Duration::from_millis(millis), can_ask, MOST, |_| true);
        for canary in advance.canaries {
            if let Some(heard) = hear(millis) {
                readiness.hear(&canary, heard);
            }
        }
        if !readiness.waits(&pair.frontend, pair.node) {
            return Some(millis);
        }
    }
    None
}

#[test]
fn a_new_node_gets_clients_when_it_answers() {
    let mut readiness = new(&[1]);
    assert!(readiness.waits(&web(1).frontend, node(1)) && !readiness.is_idle());
    let kube_proxy_follows = |millis| Some(if millis < 2_100 { Heard::SentBack } else { Heard::Answered });
    assert_eq!(ready_after(&mut readiness, web(1), true, kube_proxy_follows), Some(2_200));
    assert!(readiness.is_idle());
    let counts: Vec<u64> = readiness.counts().all().map(|(_, count)| count).collect();
    assert_eq!(counts, [1, 11, 0]);
}

#[test]
fn a_node_that_drops_canaries_gets_clients_after_a_second() {
    assert_eq!(ready_after(&mut new(&[1]), web(1), true, |_| None), Some(1_000));
    // It sends canaries back until it has a rule, and the Service does not admit this machine.
    let is_silent_later = |millis| (millis < 2_000).then_some(Heard::SentBack);
    assert_eq!(ready_after(&mut new(&[1]), web(1), true, is_silent_later), Some(3_000));
    let loses_some = |millis| (millis % 800 == 0).then_some(Heard::SentBack);
    assert_eq!(ready_after(&mut new(&[1]), web(1), true, loses_some), Some(30_000));
}

#[test]
fn no_node_waits_for_ever() {
    let mut readiness = new(&[1]);
    let start = clock::now();
    readiness.vip_is_here(VIP, start);
    let advance = readiness.advance(start, true, MOST, |_| true);
    assert_eq!(advance, Advance { canaries: vec![web(1)], ..Advance::default() });
    readiness.hear(&web(1), Heard::SentBack);
    let late = readiness.advance(start + MOST_WAIT, true, MOST, |_| true);
    assert_eq!((late.ready, late.given_up), (vec![web(1)], vec![web(1)]));
    // Its VIP is on no link, or nothing can be sent to it.
    for has_way in [false, true] {
        let mut readiness = new(&[1]);
        if has_way {
            readiness.vip_is_here(VIP, start);
        }
        let soon = readiness.advance(start, true, MOST, |_| false);
        assert_eq!(soon, Advance::default());
        let late = readiness.advance(start + MOST_WAIT, true, MOST, |_| false);
        assert_eq!((late.ready, late.given_up), (vec![web(1)], vec![]));
    }
}

#[test]
fn who_cannot_be_asked_gets_clients_after_a_while() {
    assert_eq!(ready_after(&mut new(&[1]), web(1), false, |_| unreachable!()), Some(3_000));
    let dns = Pair { frontend: frontend(53, Protocol::Udp), node: node(1) };
    let mut readiness = Readiness::default();
    readiness.follow(dns.frontend, &nodes(&[1]), |_| false);
    assert_eq!(
        ready_after(&mut readiness, dns, true, |_| unreachable!("a datagram would reach a Pod")),
        Some(3_000)
    );
}

#[test]
fn time_begins_when_the_vip_is_on_this_machine() {
    let (mut readiness, start) = (new(&[1]), clock::now());
    let second = Duration::from_secs(1);
    assert_eq!(readiness.absent_vips(), [VIP].into());
    assert_eq!(readiness.advance(start, true, MOST, |_| true), Advance::default());
    readiness.vip_is_here(VIP, start + second);
    assert_eq!(readiness.absent_vips(), [].into());
    assert_eq!(readiness.advance(start + second, true, MOST, |_| true).canaries, [web(1)]);
    assert_eq!(readiness.advance(start + second, true, MOST, |_| true), Advance::default(), "a pause");
}

#[test]
fn a_node_that_had_clients_goes_on_having_them() {
    let mut readiness = Readiness::default();
    let web_frontend = web(1).frontend;
    let is_restored = |address| address == node(1);
    readiness.follow(web_frontend, &nodes(&[1, 2]), is_restored);
    assert!(!readiness.waits(&web_frontend, node(1)) && readiness.waits(&web_frontend, node(2)));
    readiness.hear(&web(2), Heard::Answered);
    readiness.follow(web_frontend, &nodes(&[1, 2]), |_| false);
    assert!(readiness.is_idle(), "nothing is forgotten");
    // A Node that left and comes back may have forgotten its rule.
    readiness.follow(web_frontend, &nodes(&[1]), |_| false);
    readiness.follow(web_frontend, &nodes(&[1, 2]), |_| false);
    assert!(!readiness.waits(&web_frontend, node(1)) && readiness.waits(&web_frontend, node(2)));
    readiness.forget(&web_frontend);
    assert!(readiness.is_idle() && !readiness.hear(&web(2), Heard::Answered));
}

#[test]
fn many_nodes_are_asked_in_turn() {
    let all: Vec<u8> = (1..=10).collect();
    let (mut readiness, start) = (new(&all), clock::now());
    readiness.vip_is_here(VIP, start);
    let mut asked: Vec<IpAddr> = Vec::new();
    for _ in 0..4 {
        let advance = readiness.advance(start, true, 3, |_| true);
        asked.extend(advance.canaries.iter().map(|pair| pair.node));
    }
    assert_eq!(asked, all.iter().map(|n| node(*n)).collect::<Vec<_>>(), "each once");
    let looked_up = std::cell::Cell::new(0);
    let again = readiness.advance(start + PAUSE, true, 3, |pair| {
        looked_up.set(looked_up.get() + 1);
        pair.node != node(2)
    });
    assert_eq!(again.canaries, [web(1), web(3), web(4)]);
    assert_eq!(looked_up.get(), 4, "no more ways than are needed");
}
