// SPDX-License-Identifier: Apache-2.0
//! What the image writes, carried out on maps in memory.

use std::net::IpAddr;
use std::sync::Arc;

use llb_common::address::Mac;
use llb_common::backend::{ACTIVE, DEAD, DRAINING};
use llb_common::frontend::{KNOWN_FLOWS_ONLY, OPENINGS_ONLY, RESTRICTED};

use super::super::fake::Contents as Maps;
use super::render::render;
use super::write::key_of;
use super::{Gate, Limits, MapImage, NextHop, Write};
use crate::model::{
    Backend, Frontend, Mode, PacketLimit, Port, Protocol, Rule, ServiceName, SourceRanges, Terms, Weight,
};

const LIMITS: Limits = Limits { frontends: 4, backends: 16, chunks: 8 };

fn frontend(port: u16, protocol: Protocol) -> Frontend {
    Frontend { vip: "192.0.2.100".parse().unwrap(), port: Port::new(port.into()).unwrap(), protocol }
}

fn rule(backends: &[&str]) -> Rule {
    let backend = |text: &&str| (Backend { address: text.parse().unwrap() }, Weight::MIN);
    Rule::new(ServiceName::new("a", "web"), backends.iter().map(backend).collect(), Terms::default())
}

/// All but 192.0.2.39 answer.
fn hop(address: IpAddr) -> Option<NextHop> {
    let mac = (address != "192.0.2.39".parse::<IpAddr>().unwrap()).then(|| Mac::new([2; 6]));
    Some(NextHop {
        ifindex: 7,
        source_mac: Mac::new([1; 6]),
        mac,
        source: "192.0.2.20".parse().unwrap(),
        mtu: 1500,
    })
}

fn apply(maps: &mut Maps, writes: Vec<Write>) {
    for write in writes {
        maps.write(&write);
        maps.check();
    }
}

fn new_image() -> MapImage {
    MapImage::empty(LIMITS)
}

fn serve(image: &mut MapImage, maps: &mut Maps, frontend: Frontend, rule: &Rule, now: u32) {
    let rule = Arc::new(rule.clone());
    apply(maps, image.upsert(frontend, &rule, (Mode::Nat, Gate::Open), hop, now).unwrap());
}

/// Each backend's state by its address.
fn states(image: &MapImage, frontend: &Frontend) -> Vec<(String, u8)> {
    image.backends(frontend).map(|(backend, entry)| (backend.to_string(), entry.state)).collect()
}

#[test]
fn a_change_keeps_the_previous_table_and_most_slots_of_backends_that_stay() {
    let (mut image, mut maps, web) = (new_image(), Maps::default(), frontend(80, Protocol::Tcp));
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1", "192.0.2.32:1"]), 10);
    let first = maps.frontends[&key_of(&web)];
    assert_eq!((first.table.slots, first.previous.slots), (1021, 0));
    let before = maps.slots(first.table);

    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1", "192.0.2.33:1"]), 20);
    let second = maps.frontends[&key_of(&web)];
    assert_eq!((second.id, second.previous, second.changed), (first.id, first.table, 20));
    assert_eq!(maps.slots(second.previous), before, "a table in use is not written to");
    let stays = image.backends(&web).next().unwrap().1.id.0;
    let (old, new) = (before.iter(), maps.slots(second.table));
    let kept = old.zip(new).filter(|(old, new)| **old == stays && *new == stays).count();
    let had = before.iter().filter(|id| **id == stays).count();
    assert!(kept > had / 2, "of its {had} slots, the backend that stays kept {kept}");
    assert_eq!(
        states(&image, &web),
        [("192.0.2.31:1", ACTIVE), ("192.0.2.32:1", DRAINING), ("192.0.2.33:1", ACTIVE)]
            .map(|(name, state)| (name.to_owned(), state))
    );

    // The same rule again changes nothing.
    let same = Arc::new(rule(&["192.0.2.31:1", "192.0.2.33:1"]));
    assert_eq!(image.upsert(web, &same, (Mode::Nat, Gate::Open), hop, 30), Ok(Vec::new()));
}

#[test]
fn a_former_backend_goes_with_its_last_flow() {
    let (mut image, mut maps, web) = (new_image(), Maps::default(), frontend(80, Protocol::Tcp));
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1", "192.0.2.32:1"]), 10);
    let left = image.backends(&web).nth(1).unwrap().1.id;
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1"]), 20);
    apply(&mut maps, image.forget_idle(|id| id == left));
    assert_eq!(states(&image, &web).len(), 2);
    apply(&mut maps, image.forget_idle(|_| false));
    assert_eq!(states(&image, &web).len(), 1);
    assert_eq!(maps.backends[&left.index()].state, 0);
    // A new backend at its place has another id.
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1", "192.0.2.33:1"]), 30);
    let new = image.backends(&web).nth(1).unwrap().1.id;
    assert_eq!((new.index(), new.generation()), (left.index(), left.generation() + 1));
}

#[test]
fn a_backend_that_does_not_answer_is_in_no_table_and_udp_has_no_drain() {
    let (mut image, mut maps, dns) = (new_image(), Maps::default(), frontend(53, Protocol::Udp));
    serve(&mut image, &mut maps, dns, &rule(&["192.0.2.31:1", "192.0.2.39:1"]), 10);
    let [answers, silent] = [0, 1].map(|n| *image.backends(&dns).nth(n).unwrap().1);
    assert_eq!((answers.state, silent.state), (ACTIVE, DEAD));
    assert!(maps.slots(maps.frontends[&key_of(&dns)].table).iter().all(|id| *id == answers.id.0));
    serve(&mut image, &mut maps, dns, &rule(&[]), 20);
    assert_eq!(
        maps.frontends[&key_of(&dns)].table.slots,
        0,
        "without a table, packets go to the kernel, which refuses them"
    );
    assert_eq!(states(&image, &dns)[0].1, DEAD);
}

#[test]
fn a_restart_goes_on_with_the_same_numbers_and_the_same_table() {
    let (mut image, mut maps) = (new_image(), Maps::default());
    let (web, dns) = (frontend(80, Protocol::Tcp), frontend(53, Protocol::Udp));
    let affine = Terms { affinity_timeout: Some(std::time::Duration::from_secs(9)), ..Terms::default() };
    let both = Rule { terms: affine, ..rule(&["192.0.2.31:1", "192.0.2.32:1"]) };
    serve(&mut image, &mut maps, web, &both, 10);
    serve(&mut image, &mut maps, dns, &both, 10);
    let (entry, members) = (maps.frontends[&key_of(&web)], maps.members.clone());
    assert_eq!(members.len(), 4);

    let (mut after, leftovers) =
        MapImage::empty(LIMITS).read_back(maps.restored(), |table| Ok(maps.slots(table))).unwrap();
    assert_eq!((after.fill(), leftovers), (image.fill(), Vec::new()));
    assert!(after.frontends().all(|served| served.rule.is_none()));
    serve(&mut after, &mut maps, web, &both, 50);
    assert_eq!(maps.frontends[&key_of(&web)], entry);
    assert_eq!(maps.members, members);
    // One frontend goes; a new one gets a number of its own.
    apply(&mut maps, after.remove(&dns, 60));
    serve(&mut after, &mut maps, frontend(81, Protocol::Tcp), &both, 60);
    let new = maps.frontends[&key_of(&frontend(81, Protocol::Tcp))];
    assert!(new.id > entry.id && new.service == entry.service);
}

#[test]
fn ids_go_on_after_a_restart_also_if_nothing_is_served() {
    let (mut image, mut maps, web) = (new_image(), Maps::default(), frontend(80, Protocol::Tcp));
    let rule = Arc::new(rule(&["192.0.2.31:1"]));
    let serve = |image: &mut MapImage, maps: &mut Maps| {
        apply(maps, image.upsert(web, &rule, (Mode::Nat, Gate::Open), hop, 10).unwrap());
        let id = image.backends(&web).next().unwrap().1.id;
        apply(maps, image.remove(&web, 11));
        id
    };
    let first = serve(&mut image, &mut maps);
    let (mut next, _) =
        MapImage::empty(LIMITS).read_back(maps.restored(), |table| Ok(maps.slots(table))).unwrap();
    let second = serve(&mut next, &mut maps);
    assert_eq!((second.index(), second.generation()), (first.index(), first.generation() + 1));
}

#[test]
fn gates_are_flags_of_the_frontend() {
    let (mut image, mut maps, web) = (new_image(), Maps::default(), frontend(80, Protocol::Tcp));
    let rule = Arc::new(rule(&["192.0.2.31:1"]));
    apply(&mut maps, image.upsert(web, &rule, (Mode::Nat, Gate::OpeningsOnly), hop, 10).unwrap());
    assert_eq!(maps.frontends[&key_of(&web)].flags, OPENINGS_ONLY);
    apply(&mut maps, image.set_gate(&web, Gate::KnownFlowsOnly));
    assert_eq!(maps.frontends[&key_of(&web)].flags, KNOWN_FLOWS_ONLY);
    apply(&mut maps, image.set_gate(&web, Gate::Open));
    assert_eq!(maps.frontends[&key_of(&web)].flags, 0);
}

#[test]
fn source_ranges_are_there_before_the_frontend_asks_for_them() {
    let (mut image, mut maps, web) = (new_image(), Maps::default(), frontend(80, Protocol::Tcp));
    let only = |ranges: &[&str]| {
        let ranges: Vec<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let terms = Terms { source_ranges: SourceRanges::only(&ranges), ..Terms::default() };
        Arc::new(Rule { terms, ..rule(&["192.0.2.31:1"]) })
    };
    let writes = image.upsert(web, &only(&["198.51.100.0/24"]), (Mode::Nat, Gate::Open), hop, 1).unwrap();
    let at = |wanted: fn(&Write) -> bool| writes.iter().position(wanted).unwrap();
    assert!(
        at(|write| matches!(write, Write::SourceRange(..)))
            < at(|write| matches!(write, Write::Frontend(..)))
    );
    apply(&mut maps, writes);
    assert_eq!(maps.frontends[&key_of(&web)].flags, RESTRICTED);
    // An IPv6 range admits no IPv4 client, although IPv4 addresses are kept as mapped ones.
    apply(&mut maps, image.upsert(web, &only(&["::/0"]), (Mode::Nat, Gate::Open), hop, 1).unwrap());
    assert_eq!(maps.ranges.values().copied().collect::<Vec<_>>(), [1, 0]);
    apply(&mut maps, image.remove(&web, 2));
    assert!(maps.ranges.is_empty());
}

#[test]
fn a_full_map_refuses_the_frontend_and_changes_nothing() {
    let (mut image, mut maps) =
        (MapImage::empty(Limits { backends: 2, chunks: 1, ..LIMITS }), Maps::default());
    let web = frontend(80, Protocol::Tcp);
    let upsert = |image: &mut MapImage, frontend, backends: &[&str]| {
        image.upsert(frontend, &Arc::new(rule(backends)), (Mode::Nat, Gate::Open), hop, 10)
    };
    let three = ["192.0.2.31:1", "192.0.2.32:1", "192.0.2.33:1"];
    assert_eq!(upsert(&mut image, web, &three), Err(PacketLimit::Backends { most: 2 }));
    assert_eq!((image.fill(), image.has(&web)), ((0, 0), false));
    apply(&mut maps, upsert(&mut image, web, &three[..1]).unwrap());
    // The only chunk is taken.
    let other = frontend(81, Protocol::Tcp);
    assert_eq!(upsert(&mut image, other, &three[..1]), Err(PacketLimit::Tables { slots: 1021, most: 1 }));
    assert_eq!(image.fill(), (1, 1));
    assert_eq!(maps.slots(maps.frontends[&key_of(&web)].table).len(), 1021);
}

#[test]
fn each_limit_has_its_own_text() {
    let mut image = MapImage::empty(Limits { frontends: 1, ..LIMITS });
    let mut upsert = |port| {
        let rule = Arc::new(rule(&["192.0.2.31:1"]));
        image.upsert(frontend(port, Protocol::Tcp), &rule, (Mode::Nat, Gate::Open), hop, 10)
    };
    upsert(80).unwrap();
    assert_eq!(upsert(81), Err(PacketLimit::Frontends { most: 1 }));
    assert_eq!(
        PacketLimit::Frontends { most: 1 }.to_string(),
        "all 1 frontends of the packet plane are in use"
    );
}

#[test]
fn leftovers_of_unfinished_writes_are_removed() {
    let (mut image, mut maps, web) = (new_image(), Maps::default(), frontend(80, Protocol::Tcp));
    let affine = Terms { affinity_timeout: Some(std::time::Duration::from_secs(9)), ..Terms::default() };
    let rule = Arc::new(Rule { terms: affine, ..rule(&["192.0.2.31:1"]) });
    let writes = image.upsert(web, &rule, (Mode::Nat, Gate::Open), hop, 10).unwrap();
    let before_frontend = writes.into_iter().take_while(|write| !matches!(write, Write::Frontend(..)));
    apply(&mut maps, before_frontend.collect());
    let (after, leftovers) =
        MapImage::empty(LIMITS).read_back(maps.restored(), |table| Ok(maps.slots(table))).unwrap();
    assert_eq!((after.fill(), leftovers.len()), ((0, 0), 2));
    apply(&mut maps, leftovers);
    assert!(maps.members.is_empty() && maps.backends.values().all(|backend| backend.state == 0));
}

#[test]
fn writes_are_shown_as_text() {
    let terms = Terms {
        source_ranges: SourceRanges::only(&["198.51.100.0/24".parse().unwrap()]),
        ..Terms::default()
    };
    let rule = Rule { terms, ..rule(&["192.0.2.31:1", "192.0.2.32:1"]) };
    let text = render(&[(frontend(80, Protocol::Tcp), Arc::new(rule))].into());
    let expected = "\
reset the counters of backend 0.1
backend 0.1: 192.0.2.31:1/TCP of 192.0.2.100:80/TCP, active, host ba9d1f73, \
link 2 from 02:00:00:00:00:01 to 02:00:c0:00:02:1f, snat 192.0.2.20, mtu 1500
reset the counters of backend 1.1
backend 1.1: 192.0.2.32:1/TCP of 192.0.2.100:80/TCP, active, host b9bb6c47, \
link 2 from 02:00:00:00:00:01 to 02:00:c0:00:02:20, snat 192.0.2.20, mtu 1500
chunk 0: 3 unused, 510 for 0.1, 511 for 1.1
clients of service 6591fdbd in 198.51.100.0/24: admitted
192.0.2.100:80/TCP: id 1, service 6591fdbd, nat, table of 1021 slots from chunk 0, restricted
";
    assert_eq!(text, expected);
}
