// SPDX-License-Identifier: Apache-2.0
//! The image's writes, carried out on maps in memory.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use llb_common::address::Mac;
use llb_common::backend::{ACTIVE, BackendEntry, BackendId, DEAD, DRAINING};
use llb_common::frontend::{
    Chunk, FrontendEntry, FrontendKey, KNOWN_FLOWS_ONLY, MemberKey, OPENINGS_ONLY, RESTRICTED,
    SourceRangeKey, Table,
};

use super::write::key_of;
use super::{Gate, MapImage, NextHop, NoRoom, Restored, Write};
use crate::model::{Backend, Frontend, Mode, Port, Protocol, Rule, ServiceName, SourceRanges, Terms, Weight};

const LIMITS: (u32, u32) = (16, 8);

/// What the kernel would hold.
#[derive(Default)]
struct Maps {
    frontends: HashMap<FrontendKey, FrontendEntry>,
    backends: BTreeMap<u32, BackendEntry>,
    chunks: BTreeMap<u32, Box<Chunk>>,
    members: HashMap<MemberKey, BackendId>,
    ranges: BTreeMap<SourceRangeKey, u8>,
}

impl Maps {
    fn apply(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::ResetTraffic(_) => {}
                Write::Backend(entry) => drop(self.backends.insert(entry.id.index(), entry)),
                Write::Chunk(number, chunk) => drop(self.chunks.insert(number, chunk)),
                Write::Member(key, id) => drop(self.members.insert(key, id)),
                Write::SourceRange(key, admits) => drop(self.ranges.insert(key, admits)),
                Write::Frontend(key, entry) => {
                    // What packets see from here on must be there already.
                    for id in self.slots(entry.table) {
                        assert_eq!(self.backends[&BackendId(id).index()].id, BackendId(id));
                    }
                    self.frontends.insert(key, entry);
                }
                Write::RemoveFrontend(key) => drop(self.frontends.remove(&key)),
                Write::RemoveMember(key) => drop(self.members.remove(&key)),
                Write::RemoveSourceRange(key) => drop(self.ranges.remove(&key)),
            }
        }
    }

    fn slots(&self, table: Table) -> Vec<u32> {
        let chunks = table.first_chunk..table.first_chunk + table.chunks();
        let mut slots: Vec<u32> = chunks.flat_map(|number| *self.chunks[&number]).collect();
        slots.truncate(table.slots as usize);
        slots
    }

    fn restored(&self) -> Restored {
        Restored {
            frontends: self.frontends.iter().map(|(key, entry)| (*key, *entry)).collect(),
            backends: self.backends.values().copied().collect(),
            members: self.members.keys().copied().collect(),
            ranges: self.ranges.iter().map(|(key, admits)| (*key, *admits)).collect(),
        }
    }
}

fn frontend(port: u16, protocol: Protocol) -> Frontend {
    Frontend { vip: "192.0.2.100".parse().unwrap(), port: Port::new(port.into()).unwrap(), protocol }
}

fn rule(backends: &[&str]) -> Rule {
    let backend = |text: &&str| (Backend { address: text.parse().unwrap() }, Weight::MIN);
    Rule::new(ServiceName::new("a", "web"), backends.iter().map(backend).collect(), Terms::default())
}

/// All but the last one answer.
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

fn new_book() -> MapImage {
    MapImage::new(LIMITS, Restored::default(), |_| Vec::new())
}

fn serve(image: &mut MapImage, maps: &mut Maps, frontend: Frontend, rule: &Rule, now: u32) {
    let rule = Arc::new(rule.clone());
    maps.apply(image.upsert(frontend, &rule, (Mode::Nat, Gate::Open), hop, now).unwrap());
}

/// Each backend's state by its address.
fn states(image: &MapImage, frontend: &Frontend) -> Vec<(String, u8)> {
    image.backends(frontend).map(|(backend, entry)| (backend.to_string(), entry.state)).collect()
}

#[test]
fn a_change_keeps_the_table_before_and_those_who_stay() {
    let (mut image, mut maps, web) = (new_book(), Maps::default(), frontend(80, Protocol::Tcp));
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1", "192.0.2.32:1"]), 10);
    let first = maps.frontends[&key_of(&web)];
    assert_eq!((first.table.slots, first.previous.slots), (1021, 0));
    let before = maps.slots(first.table);

    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1", "192.0.2.33:1"]), 20);
    let second = maps.frontends[&key_of(&web)];
    assert_eq!((second.id, second.previous, second.changed), (first.id, first.table, 20));
    assert_eq!(maps.slots(second.previous), before, "nobody writes into a table in use");
    let stays = image.backends(&web).next().unwrap().1.id.0;
    let (old, new) = (before.iter(), maps.slots(second.table));
    let kept = old.zip(new).filter(|(old, new)| **old == stays && *new == stays).count();
    let had = before.iter().filter(|id| **id == stays).count();
    assert!(kept > had / 2, "of its {had} slots, one who stays kept {kept}");
    assert_eq!(
        states(&image, &web),
        [("192.0.2.31:1", ACTIVE), ("192.0.2.32:1", DRAINING), ("192.0.2.33:1", ACTIVE)]
            .map(|(name, state)| (name.to_owned(), state))
    );

    // The same again: nothing to write but what is always written.
    let same = Arc::new(rule(&["192.0.2.31:1", "192.0.2.33:1"]));
    assert_eq!(image.upsert(web, &same, (Mode::Nat, Gate::Open), hop, 30), Ok(Vec::new()));
}

#[test]
fn a_backend_that_left_goes_with_its_last_flow() {
    let (mut image, mut maps, web) = (new_book(), Maps::default(), frontend(80, Protocol::Tcp));
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1", "192.0.2.32:1"]), 10);
    let left = image.backends(&web).nth(1).unwrap().1.id;
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1"]), 20);
    maps.apply(image.forget_idle(|id| id == left));
    assert_eq!(states(&image, &web).len(), 2);
    maps.apply(image.forget_idle(|_| false));
    assert_eq!(states(&image, &web).len(), 1);
    assert_eq!(maps.backends[&left.index()].state, 0);
    // Its place has another id from now on.
    serve(&mut image, &mut maps, web, &rule(&["192.0.2.31:1", "192.0.2.33:1"]), 30);
    let new = image.backends(&web).nth(1).unwrap().1.id;
    assert_eq!((new.index(), new.generation()), (left.index(), left.generation() + 1));
}

#[test]
fn who_does_not_answer_is_in_no_table_and_udp_has_no_drain() {
    let (mut image, mut maps, dns) = (new_book(), Maps::default(), frontend(53, Protocol::Udp));
    serve(&mut image, &mut maps, dns, &rule(&["192.0.2.31:1", "192.0.2.39:1"]), 10);
    let [answers, silent] = [0, 1].map(|n| *image.backends(&dns).nth(n).unwrap().1);
    assert_eq!((answers.state, silent.state), (ACTIVE, DEAD));
    assert!(maps.slots(maps.frontends[&key_of(&dns)].table).iter().all(|id| *id == answers.id.0));
    serve(&mut image, &mut maps, dns, &rule(&[]), 20);
    assert_eq!(maps.frontends[&key_of(&dns)].table.slots, 0, "the kernel refuses");
    assert_eq!(states(&image, &dns)[0].1, DEAD);
}

#[test]
fn a_restart_goes_on_with_the_same_numbers_and_the_same_table() {
    let (mut image, mut maps) = (new_book(), Maps::default());
    let (web, dns) = (frontend(80, Protocol::Tcp), frontend(53, Protocol::Udp));
    let affine = Terms { affinity_timeout: Some(std::time::Duration::from_secs(9)), ..Terms::default() };
    let both = Rule { terms: affine, ..rule(&["192.0.2.31:1", "192.0.2.32:1"]) };
    serve(&mut image, &mut maps, web, &both, 10);
    serve(&mut image, &mut maps, dns, &both, 10);
    let (entry, members) = (maps.frontends[&key_of(&web)], maps.members.clone());
    assert_eq!(members.len(), 4);

    let mut after = MapImage::new(LIMITS, maps.restored(), |table| maps.slots(table));
    assert_eq!(after.fill(), image.fill());
    assert!(after.frontends().all(|(_, rule, ..)| rule.is_none()));
    serve(&mut after, &mut maps, web, &both, 50);
    assert_eq!(maps.frontends[&key_of(&web)], entry);
    assert_eq!(maps.members, members);
    // One that nobody wants any more goes; a new one gets a number of its own.
    maps.apply(after.remove(&dns, 60));
    serve(&mut after, &mut maps, frontend(81, Protocol::Tcp), &both, 60);
    let new = maps.frontends[&key_of(&frontend(81, Protocol::Tcp))];
    assert!(new.id > entry.id && new.service == entry.service);
}

#[test]
fn gates_are_flags_of_the_frontend() {
    let (mut image, mut maps, web) = (new_book(), Maps::default(), frontend(80, Protocol::Tcp));
    let rule = Arc::new(rule(&["192.0.2.31:1"]));
    maps.apply(image.upsert(web, &rule, (Mode::Nat, Gate::OpeningsOnly), hop, 10).unwrap());
    assert_eq!(maps.frontends[&key_of(&web)].flags, OPENINGS_ONLY);
    maps.apply(image.set_gate(&web, Gate::KnownFlowsOnly));
    assert_eq!(maps.frontends[&key_of(&web)].flags, KNOWN_FLOWS_ONLY);
    maps.apply(image.set_gate(&web, Gate::Open));
    assert_eq!(maps.frontends[&key_of(&web)].flags, 0);
}

#[test]
fn ranges_of_a_service_come_before_and_go_after() {
    let (mut image, mut maps, web) = (new_book(), Maps::default(), frontend(80, Protocol::Tcp));
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
    maps.apply(writes);
    assert_eq!(maps.frontends[&key_of(&web)].flags, RESTRICTED);
    // IPv4 addresses are mapped ones, and yet none of IPv6.
    maps.apply(image.upsert(web, &only(&["::/0"]), (Mode::Nat, Gate::Open), hop, 1).unwrap());
    assert_eq!(maps.ranges.values().copied().collect::<Vec<_>>(), [1, 0]);
    maps.apply(image.remove(&web, 2));
    assert!(maps.ranges.is_empty());
}

#[test]
fn a_full_map_refuses_the_frontend_and_changes_nothing() {
    let (mut image, mut maps) = (MapImage::new((2, 1), Restored::default(), |_| Vec::new()), Maps::default());
    let web = frontend(80, Protocol::Tcp);
    let upsert = |image: &mut MapImage, frontend, backends: &[&str]| {
        image.upsert(frontend, &Arc::new(rule(backends)), (Mode::Nat, Gate::Open), hop, 10)
    };
    let three = ["192.0.2.31:1", "192.0.2.32:1", "192.0.2.33:1"];
    assert_eq!(upsert(&mut image, web, &three), Err(NoRoom::Backends { most: 2 }));
    assert_eq!((image.fill(), image.id(&web)), ((0, 0), None));
    maps.apply(upsert(&mut image, web, &three[..1]).unwrap());
    // The only chunk is taken.
    let other = frontend(81, Protocol::Tcp);
    assert_eq!(upsert(&mut image, other, &three[..1]), Err(NoRoom::Tables { most: 1 }));
    assert_eq!(image.fill(), (1, 1));
    assert_eq!(maps.slots(maps.frontends[&key_of(&web)].table).len(), 1021);
}
