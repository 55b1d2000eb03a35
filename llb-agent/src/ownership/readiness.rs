// SPDX-License-Identifier: Apache-2.0
//! How ready this box is for each share: the numbers that are added to its priorities, and how fast they change. Time is an
//! argument. keepalived decides whether a share then moves.
//!
//! ```text
//!   orders, what the agent serves --wanted()--> a number for each share --next_step()--> what to write now
//! ```
//!
//! Numbers that make shares move change one after the other ([`PACE`]), so that the other boxes and the switches have time when
//! a box comes back or drains.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::priority::{READY_IN_FULL, READY_LAST, READY_NOT, before_all};
use super::ranks::Ranks;
use crate::model::{Holding, SHARES};

/// The time between two shares that may move: at most 20 a second.
pub const PACE: Duration = Duration::from_millis(50);

/// How long a box keeps its shares while it does not serve all that it should. What the agent before left still forwards.
const PATIENCE: Duration = Duration::from_secs(60);

/// One number for each share; `None`: not known.
pub type Numbers = [Option<i32>; SHARES as usize];

/// The orders for this box (`drain`, `undrain`, `move`). They outlive the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Other boxes are to have all shares.
    #[serde(default)]
    pub drained: bool,
    /// For each share that was moved, the member that is first for it, whatever the ranks say.
    #[serde(default)]
    pub moved: BTreeMap<u8, String>,
}

/// What an agent serves, as far as the group is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All that it should.
    InFull,
    /// All, but not on every link or not in the way that it should.
    InPart,
    /// It has no snapshot, or does not see its links.
    Unknown,
}

/// What a box serves, and since when it is not all.
#[derive(Clone, Copy, Debug)]
pub struct Fitness {
    condition: Condition,
    since: Instant,
}

impl Fitness {
    /// An agent that has just started.
    pub fn new(now: Instant) -> Self {
        Self { condition: Condition::Unknown, since: now }
    }

    /// Takes in what the agent serves now.
    pub fn is_now(&mut self, condition: Condition, now: Instant) {
        if self.condition == Condition::InFull && condition != Condition::InFull {
            self.since = now;
        }
        self.condition = condition;
    }

    fn is_for_good(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= PATIENCE
    }
}

/// The numbers that are to be reached. `said` is what keepalived has been told.
pub fn wanted(
    orders: &Orders,
    fitness: &Fitness,
    (ranks, member): (&Ranks, &str),
    said: &Numbers,
    now: Instant,
) -> Numbers {
    std::array::from_fn(|index| {
        let (share, said) = (index as u8, said[index]);
        if orders.drained {
            return Some(READY_NOT);
        }
        match (fitness.condition, fitness.is_for_good(now)) {
            (Condition::InFull, _) => Some(in_full(orders, ranks, member, share)),
            (Condition::InPart, false) => said.map(|said| said.max(READY_LAST)),
            (Condition::InPart, true) => Some(READY_LAST),
            (Condition::Unknown, false) => said,
            (Condition::Unknown, true) => Some(READY_NOT),
        }
    })
}

/// The numbers that an agent writes before keepalived sees it live, if no other agent has lived until then: shares that are
/// elsewhere have to wait for their turns. The numbers of shares that are here, and unknown ones, stay as they are.
pub fn at_start(said: &Numbers, holding: &Holding) -> Vec<(u8, i32)> {
    let Holding::Shares(here) = holding else { return Vec::new() };
    let is_here = |share: u8| here.iter().any(|known| known.number == share);
    let raised = (0..SHARES).zip(said).filter(|(_, said)| said.is_some_and(|said| said > READY_LAST));
    raised.map(|(share, _)| share).filter(|share| !is_here(*share)).map(|share| (share, READY_LAST)).collect()
}

/// For a share that was moved to this box, a number above rank 0, so that the other boxes need not know of the order.
fn in_full(orders: &Orders, ranks: &Ranks, member: &str, share: u8) -> i32 {
    match (orders.moved.get(&share), ranks.rank(member, share)) {
        (Some(to), Some(rank)) if to == member => before_all(rank),
        _ => READY_IN_FULL,
    }
}

/// What to write now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The shares with their numbers.
    pub write: Vec<(u8, i32)>,
    /// Whether this may make shares move.
    pub moves: bool,
}

/// The next step, if there is one: first all numbers that move no share, at once; then the others, one by one.
pub fn next_step(said: &Numbers, wanted: &Numbers) -> Option<Step> {
    let open = (0..SHARES).zip(said.iter().zip(wanted)).filter_map(|(share, (said, wanted))| {
        let wanted = wanted.filter(|wanted| *said != Some(*wanted))?;
        Some((share, *said, wanted))
    });
    let open: Vec<_> = open.collect();
    // A box that serves again can have shares that nobody else serves at once.
    let unready = |said: &Option<i32>| said.is_none_or(|said| said < READY_LAST);
    let raised: Vec<_> = open
        .iter()
        .filter(|(_, said, wanted)| unready(said) && *wanted >= READY_LAST)
        .map(|(share, ..)| (*share, READY_LAST))
        .collect();
    if !raised.is_empty() {
        return Some(Step { write: raised, moves: false });
    }
    let (share, _, wanted) = open.into_iter().next()?;
    Some(Step { write: vec![(share, wanted)], moves: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Share;

    const IN_FULL: Numbers = [Some(READY_IN_FULL); 16];
    const NOT: Numbers = [Some(READY_NOT); 16];
    const LAST: Numbers = [Some(READY_LAST); 16];

    fn start() -> Instant {
        crate::clock::now_std()
    }

    fn ranks() -> Ranks {
        Ranks::new("edge", &["box-a", "box-b", "box-c"].map(str::to_owned).into())
    }

    fn wants(orders: &Orders, fitness: &Fitness, said: &Numbers, now: Instant) -> Numbers {
        wanted(orders, fitness, (&ranks(), "box-a"), said, now)
    }

    /// All steps, and the numbers that they reach.
    fn steps(mut said: Numbers, wanted: &Numbers) -> (Vec<Step>, Numbers) {
        let mut all = Vec::new();
        while let Some(step) = next_step(&said, wanted) {
            step.write.iter().for_each(|(share, number)| said[usize::from(*share)] = Some(*number));
            all.push(step);
            assert!(all.len() < 100);
        }
        (all, said)
    }

    #[test]
    fn a_box_that_comes_back_is_last_at_once_and_then_gets_its_shares_one_by_one() {
        for before in [NOT, [None; 16]] {
            let (steps, reached) = steps(before, &IN_FULL);
            assert_eq!(
                steps[0],
                Step { write: (0..16).map(|share| (share, READY_LAST)).collect(), moves: false }
            );
            assert_eq!(steps.len(), 17);
            assert!(steps[1..].iter().all(|step| step.moves && step.write.len() == 1));
            assert_eq!(reached, IN_FULL);
        }
    }

    #[test]
    fn an_agent_that_was_dead_for_long_gets_its_shares_one_by_one_when_it_serves() {
        let mut said = IN_FULL;
        (said[1], said[2], said[3]) = (Some(READY_NOT), None, Some(25));
        let here = (4..16).map(|number| Share { link: "eth0".to_owned(), number });
        assert_eq!(at_start(&said, &Holding::Shares(here.collect())), [(0, READY_LAST), (3, READY_LAST)]);
        let none = Holding::Shares([].into());
        let mut now = IN_FULL;
        at_start(&IN_FULL, &none).into_iter().for_each(|(share, to)| now[usize::from(share)] = Some(to));
        assert_eq!(now, LAST);
        let mut fitness = Fitness::new(start());
        assert_eq!(wants(&Orders::default(), &fitness, &now, start()), LAST, "nothing is served yet");
        fitness.is_now(Condition::InFull, start());
        let (steps, reached) = steps(now, &wants(&Orders::default(), &fitness, &now, start()));
        assert!(steps.len() == 16 && steps.iter().all(|step| step.moves && step.write.len() == 1));
        assert_eq!(reached, IN_FULL);
    }

    #[test]
    fn a_box_that_drains_gives_its_shares_away_one_by_one() {
        let (steps, reached) = steps(IN_FULL, &NOT);
        assert_eq!((steps.len(), reached), (16, NOT));
        assert!(steps.iter().all(|step| step.moves && step.write.len() == 1));
        assert_eq!(next_step(&NOT, &NOT), None);
        assert_eq!(next_step(&IN_FULL, &[None; 16]), None, "nothing is wanted");
    }

    #[test]
    fn a_box_that_serves_less_keeps_its_shares_for_a_minute() {
        let (start, orders) = (start(), Orders::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut fitness = Fitness::new(start);
        assert_eq!(wants(&orders, &fitness, &IN_FULL, at(59)), IN_FULL, "those of the agent before");
        assert_eq!(wants(&orders, &fitness, &NOT, at(59)), NOT, "after a reboot");
        assert_eq!(wants(&orders, &fitness, &IN_FULL, at(60)), NOT, "it never gets a snapshot");
        fitness.is_now(Condition::InFull, at(61));
        assert_eq!(wants(&orders, &fitness, &NOT, at(61)), IN_FULL);
        fitness.is_now(Condition::InPart, at(100));
        fitness.is_now(Condition::InPart, at(150));
        assert_eq!(wants(&orders, &fitness, &IN_FULL, at(159)), IN_FULL);
        assert_eq!(wants(&orders, &fitness, &NOT, at(159)), LAST, "better than nobody");
        assert_eq!(wants(&orders, &fitness, &IN_FULL, at(160)), LAST);
        fitness.is_now(Condition::Unknown, at(161));
        assert_eq!(wants(&orders, &fitness, &LAST, at(161)), NOT, "it has been wrong for a minute");
    }

    #[test]
    fn a_drained_box_is_not_ready_however_well_it_serves() {
        let now = start();
        let mut fitness = Fitness::new(now);
        let orders = Orders { drained: true, moved: [(3, "box-a".to_owned())].into() };
        assert_eq!(wants(&orders, &fitness, &IN_FULL, now), NOT);
        fitness.is_now(Condition::InFull, now);
        assert_eq!(wants(&orders, &fitness, &IN_FULL, now), NOT);
    }

    #[test]
    fn a_share_that_was_moved_here_is_before_every_rank() {
        let now = start();
        let mut fitness = Fitness::new(now);
        fitness.is_now(Condition::InFull, now);
        for share in 0..SHARES {
            let here = Orders { moved: [(share, "box-a".to_owned())].into(), ..Orders::default() };
            let rank = ranks().rank("box-a", share).unwrap() as i32;
            let number = wants(&here, &fitness, &IN_FULL, now)[usize::from(share)].unwrap();
            assert_eq!(240 - 10 * rank + number, 245);
            let away = Orders { moved: [(share, "box-b".to_owned())].into(), ..Orders::default() };
            assert_eq!(wants(&away, &fitness, &IN_FULL, now), IN_FULL);
        }
    }
}
