// SPDX-License-Identifier: Apache-2.0
//! Worlds for random packets: every kind of frontend, for both families and both protocols, and the changes
//! that may happen to them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use llb_common::maglev::{self, Contender};
use rand::rngs::StdRng;
use rand::{Rng as _, seq::IteratorRandom as _};

use super::addresses::address;
use super::links::{self, LINKS};
use crate::model::wire::{TCP, UDP};
use crate::model::world::{Backend, Frontend, FrontendName, Gate, Id, MacBytes, Range, State, World};

/// A port of one of our source addresses that belongs to a frontend.
pub(super) const TAKEN_PORT: u16 = 40_003;
/// Sometimes so few ports that flows compete for them, sometimes enough.
const FEW_PORTS: (u16, u16) = (40_000, 40_001);
const MANY_PORTS: (u16, u16) = (1024, u16::MAX);
pub(super) const AFFINITY_SECS: u64 = 50;
/// Steps of time. No sum of them comes near [`AFFINITY_SECS`] or the time for which a previous table counts.
const STEPS_SECS: [u64; 2] = [35, 140];

const VIP: u8 = 1;
const SNAT: [u8; 2] = [2, 5];
const HOSTS: [u8; 3] = [21, 22, 23];

/// What kind of frontend a port of a VIP is.
struct Kind {
    vip: u8,
    port: u16,
    service: u32,
    is_dsr: bool,
    nat_instead: bool,
    is_restricted: bool,
    affinity_secs: u64,
    /// Weights of the hosts.
    weights: [u16; 3],
    mtu: Option<u16>,
    /// Its backends have the other family.
    is_bad: bool,
}

fn kinds() -> Vec<Kind> {
    let kind = |port: u16, is_dsr| Kind {
        vip: VIP,
        port,
        service: u32::from(port),
        is_dsr,
        nat_instead: false,
        is_restricted: false,
        affinity_secs: 0,
        weights: [1, 1, 1],
        mtu: Some(1500),
        is_bad: false,
    };
    vec![
        kind(80, false),
        Kind { weights: [1, 2, 5], nat_instead: true, ..kind(81, true) },
        Kind { weights: [0; 3], ..kind(82, false) },
        Kind { is_restricted: true, ..kind(83, false) },
        // A Service with two ports.
        Kind { affinity_secs: AFFINITY_SECS, ..kind(84, false) },
        Kind { affinity_secs: AFFINITY_SECS, service: 84, nat_instead: true, ..kind(85, true) },
        Kind { is_restricted: true, mtu: None, ..kind(86, true) },
        Kind { is_bad: true, ..kind(87, false) },
        Kind { mtu: Some(90), ..kind(88, false) },
        Kind { mtu: Some(90), weights: [1, 0, 0], ..kind(89, true) },
        Kind { vip: SNAT[0], ..kind(TAKEN_PORT, false) },
        // A Service with two VIPs, which have the same backends.
        Kind { vip: 6, weights: [3, 1, 1], ..kind(80, false) },
    ]
}

fn snat_ports(random: &mut StdRng) -> RangeInclusive<u16> {
    let (first, last) = if random.random_ratio(1, 2) { FEW_PORTS } else { MANY_PORTS };
    first..=last
}

/// Number of kinds in one world: few, so packets and changes meet.
const KINDS: usize = 4;

pub(super) fn build(random: &mut StdRng) -> World {
    let both = [true, false];
    let mut world = World {
        frontends: BTreeMap::new(),
        backends: BTreeMap::new(),
        ranges: vec![],
        snat: both.iter().flat_map(|is_v4| SNAT.map(|last| address(*is_v4, last))).collect(),
        snat_ports: snat_ports(random),
        has_budget: true,
        links: LINKS[..2].iter().copied().collect(),
        places: LINKS,
        is_there: [true; 3],
        returns_by_routes: random.random_ratio(1, 3),
        routes: links::routes(),
    };
    let kinds = kinds().into_iter().choose_multiple(random, KINDS);
    for is_v4 in both {
        for service in [83, 86] {
            for (last, bits, admits) in [(8, 3, true), (12, 0, false)] {
                let prefix_length = if is_v4 { 32 } else { 128 } - bits;
                world.ranges.push(Range { service, network: address(is_v4, last), prefix_length, admits });
            }
        }
        for (kind, protocol) in kinds.iter().flat_map(|kind| [(kind, TCP), (kind, UDP)]) {
            add(&mut world, kind, is_v4, protocol);
        }
    }
    world
}

fn add(world: &mut World, kind: &Kind, is_v4: bool, protocol: u8) {
    let name = (address(is_v4, kind.vip), kind.port, protocol);
    let mut weights = vec![];
    for (host, weight) in (0..).zip(kind.weights).filter(|(_, weight)| *weight > 0) {
        let id: Id = (world.backends.len() as u32 + 1, 1);
        weights.push((id, weight));
        world.backends.insert(
            id.0,
            Backend {
                id,
                address: address(is_v4 != kind.is_bad, HOSTS[host]),
                port: 30_000 + kind.port % 1000,
                frontend: name,
                snat: address(is_v4, SNAT[host / 2]),
                host: host as u32 + 1,
                mtu: kind.mtu,
                // The third backend is behind a router, on another link.
                mac: Some([2, 0, 0, 0, 1, host as u8]),
                link: LINKS[host / 2].0,
                from_mac: LINKS[host / 2].1,
                state: State::Active,
            },
        );
    }
    let frontend = Frontend {
        id: world.frontends.len() as u32 + 1,
        service: kind.service,
        is_dsr: kind.is_dsr,
        nat_instead: kind.nat_instead,
        is_restricted: kind.is_restricted,
        gate: Gate::Open,
        affinity_secs: kind.affinity_secs,
        table: table(world, &weights),
        previous: None,
    };
    world.frontends.insert(name, frontend);
}

/// The slots for backends with these weights.
fn table(world: &World, weights: &[(Id, u16)]) -> Vec<Id> {
    if weights.is_empty() {
        return vec![];
    }
    let name = |id: &Id| {
        let backend = &world.backends[&id.0];
        format!("{}:{}", backend.address, backend.port)
    };
    let mut contenders: Vec<_> = (0..)
        .zip(weights)
        .map(|(place, (id, weight))| Contender::new(place, name(id).as_bytes(), *weight))
        .collect();
    let mut slots = vec![0; maglev::slots_for(weights.len())];
    maglev::fill(&mut slots, &mut contenders);
    slots.into_iter().map(|place| weights[usize::from(place)].0).collect()
}

/// The change that the maps need after a change of the world.
#[derive(Debug)]
pub(super) enum Change {
    Backend(u32),
    /// The frontend and its backends.
    Frontend(FrontendName),
    Settings,
    /// The links that the programs know, and all backends.
    Links,
    /// This many seconds pass.
    Time(u64),
    /// The kernel evicts an entry that it may evict.
    Eviction,
    /// The agent finds a backend dead that has failed before.
    Death,
}

/// Changes something in the world and says what.
pub(super) fn change(world: &mut World, now: u64, random: &mut StdRng) -> Change {
    match random.random_range(0..20) {
        0..5 if random.random_ratio(1, 8) => {
            let backend = world.backends.values_mut().choose(random).unwrap();
            move_way(backend, &world.links, random);
            Change::Backend(backend.id.0)
        }
        0..5 => {
            let backend = world.backends.values_mut().choose(random).unwrap();
            match random.random_range(0..11) {
                0..4 => {
                    backend.state = State::Active;
                    backend.mac.get_or_insert([2, 0, 0, 0, 1, 9]);
                }
                4..6 => backend.state = State::Draining,
                6..8 => backend.state = State::Dead,
                8 => backend.mac = if backend.mac.is_none() { Some([2, 0, 0, 0, 1, 9]) } else { None },
                // It is lost.
                9 => (backend.state, backend.mac) = (State::Draining, None),
                // Another backend gets its index.
                _ => backend.id.1 += 1,
            }
            Change::Backend(backend.id.0)
        }
        5..9 => {
            let name = *world.frontends.keys().choose(random).unwrap();
            if random.random_ratio(1, 4) {
                fail_over(world, name, now, random);
            } else {
                replace_table(world, name, now, random);
            }
            Change::Frontend(name)
        }
        9 if random.random_ratio(3, 4) => {
            links::change(world, random);
            Change::Links
        }
        9 => {
            world.snat_ports = snat_ports(random);
            Change::Settings
        }
        10 => {
            world.has_budget = random.random_ratio(3, 4);
            Change::Settings
        }
        13..15 => {
            let name = *world.frontends.keys().choose(random).unwrap();
            let gates = [Gate::Open, Gate::Open, Gate::OpeningsOnly, Gate::KnownFlowsOnly];
            world.frontends.get_mut(&name).unwrap().gate = gates[random.random_range(0..gates.len())];
            Change::Frontend(name)
        }
        19 => Change::Death,
        11..13 => Change::Time(STEPS_SECS[random.random_range(0..2)]),
        _ => Change::Eviction,
    }
}

/// The route to a backend moves to another link, or the backend sees another address of the machine.
fn move_way(backend: &mut Backend, links: &BTreeMap<u32, MacBytes>, random: &mut StdRng) {
    if random.random_bool(0.5) {
        (backend.link, backend.from_mac) =
            links.iter().map(|(link, mac)| (*link, *mac)).choose(random).unwrap();
    } else {
        backend.snat = address(backend.snat.is_ipv4(), SNAT[random.random_range(0..SNAT.len())]);
    }
}

/// Builds a new table of the backends that may get new flows; sometimes the last one stays as the previous
/// table.
fn replace_table(world: &mut World, name: FrontendName, now: u64, random: &mut StdRng) {
    let live = |backend: &&Backend| backend.frontend == name && backend.state == State::Active;
    let mut weights: Vec<_> = world.backends.values().filter(live).map(|backend| (backend.id, 1)).collect();
    if weights.len() > 1 && random.random_ratio(1, 3) {
        weights.remove(0);
    }
    let table = table(world, &weights);
    let frontend = world.frontends.get_mut(&name).unwrap();
    let old = std::mem::replace(&mut frontend.table, table);
    frontend.previous = random.random_ratio(3, 4).then_some((old, now));
}

/// Gives all flows of one backend to the others, which work.
fn fail_over(world: &mut World, name: FrontendName, now: u64, random: &mut StdRng) {
    let of_it = |backend: &&mut Backend| backend.frontend == name;
    let mut ids: Vec<_> = world
        .backends
        .values_mut()
        .filter(of_it)
        .map(|backend| {
            backend.state = State::Active;
            backend.id
        })
        .collect();
    if ids.is_empty() {
        return;
    }
    let failed = ids.swap_remove(random.random_range(0..ids.len()));
    world.backends.get_mut(&failed.0).unwrap().state = State::Dead;
    let weights: Vec<_> = ids.into_iter().map(|id| (id, 1)).collect();
    let tables = (table(world, &weights), table(world, &[(failed, 1)]));
    let frontend = world.frontends.get_mut(&name).unwrap();
    (frontend.table, frontend.previous) = (tables.0, Some((tables.1, now)));
}
