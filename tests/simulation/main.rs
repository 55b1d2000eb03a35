// SPDX-License-Identifier: Apache-2.0
//! The real reconciler with fakes, under random changes, faults and restarts. It
//! must converge, must never touch a foreign address, and must never take a VIP
//! from a Service that was not changed. Needs no privilege and no clock.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop where it is")]

mod checks;
mod faults;
mod faulty;
mod tenant;
mod world;

use std::collections::BTreeMap;

use faults::Fault;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use world::World;

/// Number of runs. Each has its own seed, which a failed check names.
const RUNS: u64 = 150;
/// Number of calls that each fault has to strike, over all runs.
const LEAST: u32 = 20;
/// Changes in one run.
const STEPS: u32 = 60;

#[tokio::test]
async fn any_history_converges() {
    let mut struck: BTreeMap<Fault, u32> = BTreeMap::new();
    for seed in 0..RUNS {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.change(&mut random);
            for _ in 0..random.random_range(0..3) {
                world.round().await;
                world.check_round();
            }
            world.check_always();
        }
        world.heal();
        world.settle().await;
        world.check_converged();
        for (fault, count) in world.faults.struck() {
            *struck.entry(fault).or_default() += count;
        }
    }
    // Otherwise a fault that never struck would look like one that was survived.
    for fault in Fault::ALL {
        assert!(struck.get(&fault).is_some_and(|&count| count >= LEAST), "{fault:?}: {struck:?}");
    }
}

/// Shows that the checks can fail: a reconciler that does not run does not converge.
#[tokio::test]
#[should_panic(expected = "seed 1: ")]
async fn a_reconciler_that_does_not_run_fails_the_checks() {
    let mut random = StdRng::seed_from_u64(1);
    let mut world = World::new(1);
    for _ in 0..STEPS {
        world.change(&mut random);
    }
    world.round().await;
    world.heal();
    for _ in 0..STEPS {
        world.change(&mut random);
    }
    world.check_converged();
}
