// SPDX-License-Identifier: Apache-2.0
//! The plane's logic under random changes, with maps whose writes and reads fail at random,
//! and an agent that crashes at random. After each write, [`FakeMaps`] checks what packets
//! rely on. When nothing fails any more, one more pass must bring the maps to the rules.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use llb_common::address::Mac;
use llb_common::backend::{ACTIVE, BackendEntry, BackendId};
use llb_common::hash::mix;
use llb_common::time::Tick;
use tokio::time::Instant;

use super::drain::Drain;
use super::fake::FakeMaps;
use super::image::{Gate, Limits, NextHop, key_of};
use super::map_store::MapStore as _;
use super::state::State;
use crate::clock;
use crate::dataplane::placement::{PacketMode, Ways};
use crate::model::{Backend, Frontend, Mode, Port, Protocol, Rule, ServiceName, SourceRanges, Terms, Weight};

const SEEDS: u64 = 12;
const STEPS: u32 = 300;
/// So small that limits are reached.
const LIMITS: Limits = Limits { frontends: 5, backends: 18, chunks: 11 };
const FAULTS_PER_THOUSAND: u64 = 30;

struct World {
    random: u64,
    maps: Arc<FakeMaps>,
    state: State<FakeMaps>,
    /// What the loop wants, as far as the plane did not refuse it.
    desired: BTreeMap<Frontend, Arc<Rule>>,
    /// What the relay serves instead.
    relayed: BTreeMap<Frontend, Arc<Rule>>,
    /// Since when a backend is silent.
    silent: BTreeMap<IpAddr, u32>,
    start: Instant,
    seconds: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let maps = Arc::new(FakeMaps::default());
        Self {
            random: seed,
            state: State::read_back(Arc::clone(&maps), LIMITS).unwrap(),
            maps,
            desired: BTreeMap::new(),
            relayed: BTreeMap::new(),
            silent: BTreeMap::new(),
            start: clock::now(),
            seconds: 0,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = mix(self.random.wrapping_add(1));
        self.random % limit
    }

    fn now(&self) -> (Instant, Tick) {
        (self.start + Duration::from_secs(self.seconds.into()), self.seconds)
    }

    fn step(&mut self) {
        self.seconds += self.below(4) as u32;
        let frontend = frontend(self.below(6));
        match self.below(13) {
            0..=4 => {
                let (rule, gate) = (self.rule(frontend), self.gate());
                self.serve(frontend, rule, gate);
            }
            5 => {
                self.desired.remove(&frontend);
                self.relayed.remove(&frontend);
                self.state.moves.forget(&frontend);
                let until = Drain::Until(self.now().0 + Duration::from_secs(3));
                let _ = self.state.close(&frontend, until);
            }
            6 | 7 => {
                let flows = self.below(4);
                self.sweep(|id| u64::from(id.index()) % 4 == flows);
            }
            8 | 9 => {
                let address = address(self.below(6));
                if self.silent.remove(&address).is_none() {
                    self.silent.insert(address, self.seconds);
                }
                self.look();
            }
            10 => drop(self.state.take_all(&frontend)),
            11 => self.attend_to_nodes(Duration::ZERO),
            _ => self.crash(),
        }
    }

    fn rule(&mut self, frontend: Frontend) -> Arc<Rule> {
        let mut backends = BTreeMap::new();
        for n in 0..self.below(5) {
            let address = (address((n + self.random) % 6), 8080).into();
            backends.insert(Backend { address }, Weight::new(1 + self.below(3) as u16).unwrap());
        }
        let ranges = ["198.51.100.0/24", "2001:db8::/32", "::/0", "203.0.113.0/24"];
        let terms = Terms {
            affinity_timeout: (self.below(2) == 0).then_some(Duration::from_secs(60)),
            source_ranges: match self.below(3) {
                0 => SourceRanges::only(&[ranges[self.below(4) as usize].parse().unwrap()]),
                _ => SourceRanges::default(),
            },
            ..Terms::default()
        };
        // Frontends that differ only in the port are those of one Service.
        let service = ServiceName::new("default", frontend.vip.to_string());
        let mode = if self.below(3) == 0 { Mode::Dsr } else { Mode::Nat };
        Arc::new(Rule { mode, ..Rule::new(service, backends, terms) })
    }

    fn gate(&mut self) -> Gate {
        if self.below(4) == 0 { Gate::OpeningsOnly } else { Gate::Open }
    }

    /// As the planes do: what the packet plane refuses, the relay serves.
    fn serve(&mut self, frontend: Frontend, rule: Arc<Rule>, gate: Gate) {
        let placed = PacketMode { mode: rule.mode, not_dsr: None };
        let (silent, (time, now)) = (self.silent.clone(), self.now());
        let next_hop = |address| next_hop(address, &silent, now);
        let served = self.state.serve(frontend, &rule, (placed, gate), next_hop, now);
        let in_use = self.state.image.in_use();
        self.state.moves.placed(frontend, &rule, served.as_ref().copied(), in_use, time);
        match served {
            Ok(()) => {
                self.relayed.remove(&frontend);
                self.desired.insert(frontend, rule);
            }
            Err(_) => {
                self.desired.remove(&frontend);
                self.relayed.insert(frontend, rule);
                let _ = self.state.close(&frontend, Drain::UntilLastFlow);
            }
        }
    }

    /// As the upkeep does after a change of next hops.
    fn look(&mut self) {
        self.state.all_behind();
        for (frontend, rule, mode, gate) in self.state.known_behind() {
            let (silent, now) = (&self.silent, self.now().1);
            let next_hop = |address| next_hop(address, silent, now);
            let _ = self.state.follow(frontend, &rule, (mode, gate), next_hop, now);
        }
    }

    /// As the sender of canaries does when none can be sent, after so much more time.
    fn attend_to_nodes(&mut self, more: Duration) {
        let (time, tick) = self.now();
        for vip in self.state.readiness.absent_vips() {
            self.state.readiness.vip_is_here(vip, time);
        }
        let ready = self.state.readiness.advance(time + more, false, 0, |_| true).ready;
        self.state.behind.extend(ready.into_iter().map(|pair| pair.frontend));
        for (frontend, rule, mode, gate) in self.state.known_behind() {
            let next_hop = |address| next_hop(address, &self.silent, tick);
            let _ = self.state.follow(frontend, &rule, (mode, gate), next_hop, tick);
        }
    }

    /// As the upkeep does after a walk over the flows.
    fn sweep(&mut self, has_flows: impl Fn(BackendId) -> bool) {
        let _ = self.state.close_draining();
        let _ = self.state.forget_idle(&has_flows);
        let (time, tick) = self.now();
        for frontend in self.state.drained(&has_flows, time).unwrap_or_default() {
            let _ = self.state.remove(&frontend, tick);
        }
    }

    /// Another agent begins with what the maps hold. What it does not serve, the loop removes.
    fn crash(&mut self) {
        if let Ok(state) = State::read_back(Arc::clone(&self.maps), LIMITS) {
            self.state = state;
            for (frontend, rule) in std::mem::take(&mut self.relayed) {
                let gate = self.gate();
                self.serve(frontend, rule, gate);
            }
        }
    }

    /// One pass of the loop and of the upkeep, without failures.
    fn settle(&mut self) {
        self.maps.fail(0, 0);
        self.sweep(|_| false);
        self.look();
        let present: Vec<Frontend> = self.state.image.frontends().map(|served| *served.frontend).collect();
        for frontend in present.into_iter().filter(|frontend| !self.desired.contains_key(frontend)) {
            let _ = self.state.close(&frontend, Drain::UntilLastFlow);
        }
        self.seconds += 10;
        self.sweep(|_| false);
        self.place_anew();
        for (frontend, rule) in self.desired.clone() {
            self.serve(frontend, rule, Gate::Open);
        }
        self.attend_to_nodes(Duration::from_secs(10));
        // Until the chunks of former tables have rested, there may be no room for all new ones.
        for _ in 0..2 {
            self.seconds += 3;
            self.sweep(|_| false);
            self.look();
        }
    }

    /// As the upkeep and the loop do when a frontend that is relayed could be served by now.
    fn place_anew(&mut self) {
        let in_use = self.state.image.in_use();
        let (placed, now) = (self.state.placed(), self.now().0);
        self.state.moves.look(&placed, |_| Ways::default(), in_use, now);
        for (frontend, rule) in self.relayed.clone() {
            if self.state.moves.is_due(&frontend) {
                self.serve(frontend, rule, Gate::Open);
            }
        }
    }

    /// The maps hold what the rules ask for, and nothing else.
    fn check(&self, seed: u64) {
        let restored = self.maps.restore().unwrap();
        let contents = self.maps.contents().clone();
        let (image, leftovers) =
            self.state.image.read_back(restored, |table| Ok(contents.slots(table))).unwrap();
        assert_eq!(leftovers, [], "seed {seed}");
        assert_eq!(image.fill(), self.state.image.fill(), "seed {seed}");
        assert_eq!(contents.frontends.len(), self.desired.len(), "seed {seed}");
        let fresh = State::read_back(Arc::new(FakeMaps::default()), LIMITS).unwrap();
        let mut fresh = Self { state: fresh, ..Self::new(0) };
        fresh.maps = Arc::clone(&fresh.state.maps);
        fresh.silent.clone_from(&self.silent);
        fresh.seconds = self.seconds;
        for (frontend, rule) in &self.desired {
            fresh.serve(*frontend, Arc::clone(rule), Gate::Open);
        }
        fresh.attend_to_nodes(Duration::from_secs(10));
        fresh.look();
        assert!(self.state.readiness.is_idle() && fresh.state.readiness.is_idle(), "seed {seed}");
        assert_eq!(fresh.desired, self.desired, "seed {seed}: a limit is reached too soon");
        for frontend in self.desired.keys() {
            assert_eq!(self.shown(frontend), fresh.shown(frontend), "seed {seed}: {frontend}");
        }
        for (frontend, rule) in &self.relayed {
            // Nothing fails any more, so only a limit can be the reason.
            fresh.serve(*frontend, Arc::clone(rule), Gate::Open);
            assert!(!fresh.desired.contains_key(frontend), "seed {seed}: {frontend} was not tried again");
        }
        assert_eq!(contents.ranges, fresh.maps.contents().ranges, "seed {seed}");
        assert_eq!(contents.members.len(), fresh.maps.contents().members.len(), "seed {seed}");
    }

    /// What the maps say about a frontend, without the numbers that depend on what was before.
    fn shown(&self, frontend: &Frontend) -> (u32, u32, Vec<String>, Vec<Option<String>>, usize) {
        let contents = self.maps.contents().clone();
        let entry = contents.frontends[&key_of(frontend)];
        let backend = |entry: &BackendEntry| {
            let entry = BackendEntry { id: BackendId::default(), ..*entry };
            format!("{entry:?}")
        };
        let is_of = |entry: &&BackendEntry| {
            let vip: IpAddr = entry.vip.into();
            entry.state != 0 && vip == frontend.vip && entry.vip_port.number() == frontend.port.get()
        };
        let mut backends: Vec<String> = contents.backends.values().filter(is_of).map(backend).collect();
        backends.sort();
        let slots = contents.slots(entry.table).into_iter().map(|id| {
            let id = BackendId(id);
            let found =
                contents.backends.get(&id.index()).filter(|found| found.id == id && found.state == ACTIVE);
            found.map(backend)
        });
        let members = contents.members.keys().filter(|member| member.frontend == entry.id).count();
        (entry.flags, entry.affinity_secs, backends, slots.collect(), members)
    }
}

fn frontend(n: u64) -> Frontend {
    let vip = IpAddr::from([192, 0, 2, 100 + (n / 2) as u8]);
    Frontend {
        vip,
        port: Port::new(80 + (n % 2) as i64).unwrap(),
        protocol: if n == 5 { Protocol::Udp } else { Protocol::Tcp },
    }
}

fn address(n: u64) -> IpAddr {
    IpAddr::from([10, 0, 0, n as u8])
}

/// Others count as reached for long, so flows of a backend move when it was silent for a while.
fn next_hop(address: IpAddr, silent: &BTreeMap<IpAddr, u32>, now: Tick) -> Option<NextHop> {
    let silent = silent.get(&address);
    Some(NextHop {
        ifindex: 7,
        source_mac: Mac::new([1; 6]),
        mac: silent.is_none().then(|| Mac::new([2; 6])),
        source: "10.0.0.254".parse().unwrap(),
        mtu: 1500,
        is_lasting: silent.is_none_or(|since| now - since >= 30),
        waits: false,
    })
}

#[test]
fn the_maps_converge_to_the_rules_whatever_fails() {
    let mut failures = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(mix(seed));
        for _ in 0..3 {
            world.maps.fail(FAULTS_PER_THOUSAND, seed);
            for _ in 0..STEPS / 3 {
                world.step();
            }
            world.settle();
            world.check(seed);
        }
        failures += world.maps.failures();
    }
    assert!(failures > 300, "only {failures} accesses have failed");
}
