// SPDX-License-Identifier: Apache-2.0
//! Which event begins and ends when. Pure: the same seed and events give the same schedule.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::event::Event;

/// From the beginning of an event to that of the next one.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The event begins.
    Begin(Event),
    /// What the event changed is put back.
    End(Event),
}

/// The steps in the order of their times, with the time since the beginning. Each event comes once before one comes
/// again, unless what it changes is busy. What begins also ends.
#[derive(Debug)]
pub struct Schedule {
    random: StdRng,
    events: Vec<Event>,
    /// Shuffled; the next one is at the end.
    left: Vec<Event>,
    /// Events that have begun, with the time of their end.
    under_way: Vec<(Duration, Event)>,
    next_begin: Duration,
    /// Nothing begins from here on.
    span: Duration,
}

impl Schedule {
    /// A schedule of these events, which begin every [`INTERVAL`] for this span.
    pub fn new(seed: u64, events: &[Event], span: Duration) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            events: events.to_vec(),
            left: Vec::new(),
            under_way: Vec::new(),
            next_begin: Duration::ZERO,
            span,
        }
    }

    fn end_before(&mut self, time: Duration) -> Option<(Duration, Step)> {
        let first = self.under_way.iter().enumerate().min_by_key(|(_, (end, _))| *end)?.0;
        let (end, event) = self.under_way[first];
        if end > time {
            return None;
        }
        self.under_way.swap_remove(first);
        Some((end, Step::End(event)))
    }

    /// Takes an event that changes nothing that is busy.
    fn draw(&mut self) -> Option<Event> {
        if self.left.is_empty() {
            self.left.clone_from(&self.events);
            self.left.shuffle(&mut self.random);
        }
        let is_busy = |event: &Event| {
            self.under_way
                .iter()
                .any(|(_, other)| other.parts().iter().any(|part| event.parts().contains(part)))
        };
        let free = self.left.iter().rposition(|event| !is_busy(event))?;
        Some(self.left.remove(free))
    }
}

impl Iterator for Schedule {
    type Item = (Duration, Step);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(end) = self.end_before(self.next_begin) {
                return Some(end);
            }
            if self.next_begin >= self.span {
                return self.end_before(Duration::MAX);
            }
            let now = self.next_begin;
            self.next_begin += INTERVAL;
            if let Some(event) = self.draw() {
                let lasts = Duration::from_millis(self.random.random_range(event.lasts()));
                if !lasts.is_zero() {
                    self.under_way.push((now + lasts, event));
                }
                return Some((now, Step::Begin(event)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(seed: u64, events: &[Event], secs: u64) -> Vec<(Duration, Step)> {
        Schedule::new(seed, events, Duration::from_secs(secs)).collect()
    }

    #[test]
    fn a_seed_repeats_the_schedule() {
        assert_eq!(steps(7, &Event::ALL, 100), steps(7, &Event::ALL, 100));
        assert_ne!(steps(7, &Event::ALL, 100), steps(8, &Event::ALL, 100));
    }

    #[test]
    fn what_begins_ends_and_no_part_is_changed_by_two_events_at_a_time() {
        for seed in 0..200 {
            let (mut open, mut last) = (Vec::<Event>::new(), Duration::ZERO);
            for (time, step) in steps(seed, &Event::ALL, 300) {
                assert!(time >= last, "seed {seed}: {step:?}");
                last = time;
                match step {
                    Step::Begin(event) => {
                        for part in event.parts() {
                            assert!(!open.iter().any(|other| other.parts().contains(part)), "seed {seed}");
                        }
                        if *event.lasts().end() > 0 {
                            open.push(event);
                        }
                    }
                    Step::End(event) => {
                        let at = open.iter().position(|other| *other == event).unwrap();
                        open.remove(at);
                    }
                }
            }
            assert_eq!(open, [], "seed {seed}");
        }
    }

    #[test]
    fn every_event_comes() {
        let begun: Vec<Event> = steps(1, &Event::ALL, 100)
            .into_iter()
            .filter_map(|(_, step)| if let Step::Begin(event) = step { Some(event) } else { None })
            .collect();
        assert!(Event::ALL.iter().all(|event| begun.contains(event)), "{begun:?}");
    }

    #[test]
    fn one_event_alone_comes_again_and_again() {
        let steps = steps(1, &[Event::AllNodesLoseCarrier], 20);
        assert!(matches!(steps[..2], [(Duration::ZERO, Step::Begin(_)), (_, Step::End(_))]));
        assert!(matches!(steps[2].1, Step::Begin(_)));
    }
}
