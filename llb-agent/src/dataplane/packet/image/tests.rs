// SPDX-License-Identifier: Apache-2.0
//! What the image writes, carried out on maps in memory.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use llb_common::address::{Address, Mac};
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

/// All but 192.0.2.39 answer, and have for long.
fn hop(address: IpAddr) -> Option<NextHop> {
    let mac = (address != "192.0.2.39".parse::<IpAddr>().unwrap()).then(|| Mac::new([2; 6]));
    Some(NextHop {
        ifindex: 7,
        source_mac: Mac::new([1; 6]),
        mac,
        source: "192.0.2.20".parse().unwrap(),
        mtu: 1500,
        is_lasting: mac.is_some(),
        waits: false,
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

/// The next hops of two backends: whether each is reached, and whether that lasts. Then their states, and how many
/// of them the table has.
type Change = ((bool, bool), (bool, bool), ((u8, u8), usize));

/// Checks what the maps hold after each change.
fn follow_two(protocol: Protocol, changes: &[Change]) {
    let (mut image, mut maps, frontend) = (new_image(), Maps::default(), frontend(80, protocol));
    let [one, two] = ["192.0.2.31:1", "192.0.2.32:1"];
    let rule = Arc::new(rule(&[one, two]));
    let mut ids = None;
    for (now, (first, second, expected)) in (1..).zip(changes) {
        let hop = |address: IpAddr| {
            let (is_reached, is_lasting) =
                if one.starts_with(&address.to_string()) { *first } else { *second };
            let known = hop(address).unwrap();
            Some(NextHop { mac: known.mac.filter(|_| is_reached), is_lasting, ..known })
        };
        apply(&mut maps, image.upsert(frontend, &rule, (Mode::Nat, Gate::Open), hop, now).unwrap());
        let [a, b] = [0, 1].map(|n| *image.backends(&frontend).nth(n).unwrap().1);
        let slots = maps.slots(maps.frontends[&key_of(&frontend)].table);
        let of_two: BTreeSet<u32> = slots.iter().copied().filter(|id| *id != 0).collect();
        assert_eq!(((a.state, b.state), of_two.len()), *expected, "{protocol} at {now}");
        assert_eq!([a.mac.is_unknown(), b.mac.is_unknown()], [!first.0, !second.0], "{protocol} at {now}");
        for (backend, entry) in image.backends(&frontend) {
            let found = image.backend_at(&frontend, backend.address.ip()).unwrap();
            assert_eq!(found.id, entry.id);
        }
        assert!(image.backend_at(&frontend, [192, 0, 2, 1].into()).is_none());
        // Replies of flows that wait must still be recognized.
        assert!([a, b].iter().all(|entry| IpAddr::from(entry.snat).to_string() == "192.0.2.20"));
        assert_eq!(*ids.get_or_insert((a.id, b.id)), (a.id, b.id), "{protocol} at {now}");
    }
}

#[test]
fn flows_of_a_lost_backend_wait_until_others_have_answered_for_long() {
    let (reached, steady, lost, gone) = ((true, false), (true, true), (false, false), (false, true));
    let changes = [
        (reached, reached, ((ACTIVE, ACTIVE), 2)),
        (reached, lost, ((ACTIVE, DRAINING), 1)),
        (steady, lost, ((ACTIVE, DRAINING), 1)),
        (steady, gone, ((ACTIVE, DEAD), 1)),
        (steady, reached, ((ACTIVE, ACTIVE), 2)),
        // All of them are lost: new flows find them, and are dropped.
        (lost, lost, ((DRAINING, DRAINING), 2)),
        (gone, lost, ((DRAINING, DRAINING), 2)),
        (gone, gone, ((DRAINING, DRAINING), 2)),
        // They come back one after the other.
        (reached, gone, ((ACTIVE, DRAINING), 1)),
        (reached, reached, ((ACTIVE, ACTIVE), 2)),
    ];
    follow_two(Protocol::Tcp, &changes);
}

#[test]
fn udp_flows_of_a_lost_backend_move_as_soon_as_another_answers() {
    let (reached, lost, gone) = ((true, false), (false, false), (false, true));
    let changes = [
        (reached, reached, ((ACTIVE, ACTIVE), 2)),
        (reached, lost, ((ACTIVE, DEAD), 1)),
        (lost, lost, ((DRAINING, DRAINING), 2)),
        (gone, gone, ((DRAINING, DRAINING), 2)),
        (gone, reached, ((DEAD, ACTIVE), 1)),
    ];
    follow_two(Protocol::Udp, &changes);
}

#[test]
fn a_former_backend_that_is_lost_keeps_its_flows_too() {
    let (mut image, mut maps, web) = (new_image(), Maps::default(), frontend(80, Protocol::Tcp));
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1", "192.0.2.32:1"]), 10);
    let one = Arc::new(rule(&["192.0.2.31:1"]));
    let mut state_of_two = |is_lasting| {
        let hop = |address: IpAddr| {
            let known = hop(address).unwrap();
            let is_two = address == IpAddr::from([192, 0, 2, 32]);
            Some(if is_two { NextHop { mac: None, is_lasting, ..known } } else { known })
        };
        apply(&mut maps, image.upsert(web, &one, (Mode::Nat, Gate::Open), hop, 20).unwrap());
        (states(&image, &web)[1].1, image.last_hops()[&IpAddr::from([192, 0, 2, 32])].mac)
    };
    assert_eq!(state_of_two(false), (DRAINING, None));
    assert_eq!(state_of_two(true), (DEAD, None));
}

#[test]
fn the_last_ways_are_in_the_maps() {
    let (mut image, mut maps, web) = (new_image(), Maps::default(), frontend(80, Protocol::Tcp));
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1"]), 10);
    let (after, _) =
        MapImage::empty(LIMITS).read_back(maps.restored(), |table| Ok(maps.slots(table))).unwrap();
    let known = hop("192.0.2.31".parse().unwrap()).unwrap();
    let expected = NextHop { is_lasting: false, ..known };
    assert_eq!(after.last_hops().into_values().collect::<Vec<_>>(), [expected]);
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
    assert_eq!((after.fill(), leftovers.len()), ((0, 0), 3));
    apply(&mut maps, leftovers);
    assert!(
        maps.vips.is_empty()
            && maps.members.is_empty()
            && maps.backends.values().all(|backend| backend.state == 0)
    );
}

#[test]
fn vips_are_noted_from_their_first_frontend_to_their_last() {
    let (mut image, mut maps) = (new_image(), Maps::default());
    let rule = Arc::new(rule(&["192.0.2.31:1"]));
    let of_vips = |writes: &[Write]| {
        let is_it = |write: &&Write| matches!(write, Write::Vip(_) | Write::RemoveVip(_));
        writes.iter().filter(is_it).cloned().collect::<Vec<_>>()
    };
    let (web, other) = (frontend(80, Protocol::Tcp), frontend(80, Protocol::Udp));
    let vip = Address::from(web.vip);
    for (frontend, expected) in [(web, vec![Write::Vip(vip)]), (other, vec![]), (web, vec![])] {
        let writes = image.upsert(frontend, &rule, (Mode::Nat, Gate::Open), hop, 10).unwrap();
        assert_eq!(of_vips(&writes), expected);
        apply(&mut maps, writes);
    }
    // The maps of an agent that noted no VIPs.
    maps.vips.clear();
    let (_, missing) = image.read_back(maps.restored(), |table| Ok(maps.slots(table))).unwrap();
    assert_eq!(missing, [Write::Vip(vip)]);
    assert_eq!(of_vips(&image.remove(&web, 10)), []);
    assert_eq!(of_vips(&image.remove(&other, 10)), [Write::RemoveVip(vip)]);
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
VIP 192.0.2.100
192.0.2.100:80/TCP: id 1, service 6591fdbd, nat, table of 1021 slots from chunk 0, restricted
";
    assert_eq!(text, expected);
}
