// SPDX-License-Identifier: Apache-2.0
//! Random packets in changing worlds. For each packet, both programs and the model must agree on the resulting
//! bytes and on what is remembered.
//!
//! `LLB_PACKETS` sets the number of packets. The seed is printed, and `LLB_SEED` sets it. A failure names the
//! seed of its episode; `LLB_EPISODE` runs only that episode.

mod addresses;
mod bytes;
mod compare;
mod fill;
mod links;
mod remembered;
mod traffic;
mod worlds;

use std::collections::BTreeMap;

use fill::{FLOW_LINES, Kernel, REPLY_LINES};
use llb_common::reason::Reason;
use llb_tests::{Lab, environment};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use traffic::{Arriving, Traffic};
use worlds::Change;

use crate::model::flows::{Finding, Memory};
use crate::model::placed::Placed;
use crate::model::world::World;
use crate::model::{Model, Outcome, Said, is_right, wire};
use crate::programs::{Hook, Returned, raw};

/// Enough for about ten seconds.
const PACKETS: u64 = 80_000;
/// After this many packets everything is forgotten, and a new world begins.
const EPISODE_PACKETS: u64 = 400;
/// If a reason was not reached, so many times the episodes follow at most.
const LATE_EPISODES: u64 = 4;
/// The model's time at the beginning of an episode.
const START_SECS: u64 = 1000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn both_hooks_do_what_the_model_says() {
    // In a namespace of its own, where no socket holds a port.
    let mut lab = Lab::empty().unwrap();
    let host = lab.add_host("balancer").unwrap();
    links::lay_routes(&host).unwrap();
    host.run_inside(episodes).unwrap();
}

fn episodes() {
    // Some maps have a value for each CPU, so stay on one.
    let mut cpu = CpuSet::new();
    cpu.set(sched_getcpu());
    sched_setaffinity(None, &cpu).unwrap();
    let seed = environment::seed().unwrap_or_else(rand::random);
    println!("LLB_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let packets = environment::packets().unwrap_or(PACKETS);
    let mut run = Run { kernel: Kernel::load(), counted: BTreeMap::new(), sent: 0 };
    if let Some(episode) = environment::episode() {
        return run.episode(episode);
    }
    let episodes = packets.div_ceil(EPISODE_PACKETS);
    (0..episodes).for_each(|_| run.episode(random.random()));
    println!("{} of {packets} packets were sent; {:?}", run.sent, run.counted);
    assert!(run.sent > packets / 4, "{} of {packets} were sent: too few for a meaningful test", run.sent);
    if packets >= PACKETS {
        // Some reasons are rare: with a few seeds, one is not among the first packets.
        let mut left = LATE_EPISODES * episodes;
        while left > 0 && run.unreached().is_some() {
            run.episode(random.random());
            left -= 1;
        }
        assert_eq!(run.unreached(), None, "after {} packets", run.sent);
    }
}

struct Run {
    kernel: Kernel,
    /// What both programs have counted so far.
    counted: BTreeMap<&'static str, u64>,
    sent: u64,
}

impl Run {
    /// A reason that no packet has had yet. `Failed` is for what can't happen.
    fn unreached(&self) -> Option<Reason> {
        let mut reasons = Reason::ALL.into_iter().filter(|reason| *reason != Reason::Failed);
        reasons.find(|reason| !self.counted.contains_key(reason.name()))
    }

    fn episode(&mut self, seed: u64) {
        let mut traffic = Traffic::new(seed);
        let mut changes = StdRng::seed_from_u64(!seed);
        let mut world = worlds::build(&mut changes);
        let memory = Memory::new(
            Placed::new(FLOW_LINES, |name| raw(&remembered::flow_key(name))),
            Placed::new(REPLY_LINES, |name| raw(&remembered::reply_key(name))),
        );
        let mut model = Model { now: START_SECS, memory };
        self.kernel.fill(&world, model.now);
        let before: Vec<_> = world.backends.keys().map(|index| (*index, self.traffic(*index))).collect();
        for n in 0..EPISODE_PACKETS {
            if changes.random_ratio(1, 12) {
                self.change(&mut world, &mut model, &mut changes);
            }
            let arriving = traffic.next(&world, &model.memory);
            self.kernel.ages(&model.memory, model.now);
            self.kernel.ages_of_placed(&model.memory, model.now);
            let said = model.receive(&world, arriving.link, &arriving.bytes);
            let name =
                || format!("LLB_EPISODE={seed} packet {n} by {:?}\n{:02x?}", arriving.link, arriving.bytes);
            self.packet(&world, &arriving, &said, name);
        }
        // They have room for what one episode leaves.
        self.kernel.empty_rings();
        let name = format!("LLB_EPISODE={seed}");
        for reason in Reason::ALL {
            let expected = self.counted.get(reason.name()).copied().unwrap_or(0);
            let found = [0, 1].map(|n| self.kernel.programs[n].reason(reason));
            assert_eq!(found, [expected; 2], "{name}: {reason:?}");
        }
        self.kernel.assert_same(&model.memory, &name);
        for (index, before) in before {
            let counts = model.memory.traffic.get(&index).copied().unwrap_or_default();
            for (found, before) in self.traffic(index).iter().zip(before) {
                let grown: [u64; 5] = std::array::from_fn(|field| found[field] - before[field]);
                assert_eq!(grown, counts, "{name}: traffic of backend {index}");
            }
        }
    }

    fn traffic(&self, index: u32) -> [[u64; 5]; 2] {
        [0, 1].map(|n| self.kernel.programs[n].traffic(index))
    }

    fn packet(&mut self, world: &World, arriving: &Arriving, said: &Said, name: impl Fn() -> String) {
        self.kernel.link(world, arriving.link);
        let outcomes = [0, 1].map(|n| self.kernel.programs[n].run(&arriving.bytes, None));
        for (outcome, program) in outcomes.iter().zip(&self.kernel.programs) {
            let Some((returned, bytes)) = outcome else {
                // The kernel creates no skb for a frame that is shorter than its IP header.
                assert!(program.hook == Hook::Tc, "{}", name());
                assert_eq!(said.verdict, Outcome::Pass, "{}", name());
                continue;
            };
            let (expected, expected_bytes) = match &said.verdict {
                Outcome::Pass => (Returned::Pass, &arriving.bytes),
                Outcome::Drop => (Returned::Drop, &arriving.bytes),
                Outcome::Sent(bytes, link) if *link == arriving.link.0 || program.hook == Hook::Tc => {
                    (Returned::Sent, bytes)
                }
                Outcome::Sent(bytes, _) => (Returned::SentElsewhere, bytes),
            };
            let context = || format!("{}\n{:?}: {said:02x?}", name(), program.hook);
            assert_eq!(*returned, expected, "{}\n{bytes:02x?}", context());
            assert_eq!(bytes, expected_bytes, "{}\n{bytes:02x?}", context());
        }
        if let Outcome::Sent(bytes, _) = &said.verdict {
            self.sent += 1;
            // Independently of the model: right checksums stay right.
            let wire = wire::read(bytes).unwrap();
            assert!(!arriving.is_right || is_right(bytes, &wire), "{}\n{said:02x?}", name());
        }
        self.count(said, &name);
    }

    /// Counts one of the reasons, and all notes. Whatever else was counted shows at the end of the episode.
    fn count(&mut self, said: &Said, name: impl Fn() -> String) {
        for note in &said.notes {
            *self.counted.entry(note.name()).or_default() += 1;
        }
        let counts = |run: &Self, reason: Reason| {
            let counted = run.counted.get(reason.name()).copied().unwrap_or(0);
            [0, 1].map(|n| run.kernel.programs[n].reason(reason) - counted)
        };
        let found: Vec<_> = said.reasons.iter().filter(|reason| counts(self, **reason) == [1, 1]).collect();
        match (&said.reasons[..], &found[..]) {
            ([], []) => {}
            (_, [reason]) => *self.counted.entry(reason.name()).or_default() += 1,
            _ => panic!("{}\n{said:02x?}: counted {found:?}", name()),
        }
    }

    fn change(&mut self, world: &mut World, model: &mut Model, random: &mut StdRng) {
        match worlds::change(world, model.now, random) {
            Change::Backend(index) => self.kernel.backend(world, index),
            Change::Frontend(name) => {
                let backends = world.backends.values().filter(|backend| backend.frontend == name);
                backends.for_each(|backend| self.kernel.backend(world, backend.id.0));
                self.kernel.frontend(world, model.now, &name);
            }
            Change::Settings => self.kernel.settings(world),
            Change::Links => {
                self.kernel.links(world);
                world.backends.keys().for_each(|index| self.kernel.backend(world, *index));
            }
            // Nothing may be older than the machine's start.
            Change::Time(seconds) if model.now + seconds > START_SECS + fill::uptime_secs() => {}
            Change::Time(seconds) => {
                model.now += seconds;
                self.kernel.times(world, &model.memory, model.now);
            }
            Change::Death => {
                if let Some(failure) = model.memory.failing.values_mut().choose(random) {
                    *failure = (Finding::Dead, model.now);
                }
            }
            Change::Eviction => {
                let memory = &mut model.memory;
                if let Some(name) = memory.pending_flows.keys().choose(random).copied() {
                    memory.pending_flows.remove(&name);
                    self.kernel.evict_flow(&name);
                }
                if let Some(name) = memory.pending_replies.keys().choose(random).copied() {
                    memory.pending_replies.remove(&name);
                    self.kernel.evict_reply(&name);
                }
                if let Some(name) = memory.fragments.keys().choose(random).copied() {
                    memory.fragments.remove(&name);
                    self.kernel.evict_fragment(&name);
                }
            }
        }
    }
}
