// SPDX-License-Identifier: Apache-2.0
//! The traffic of a frontend, or of one of its backends: by plane, and together. Pure.

use std::time::Duration;

use super::window::{Steps, Window};
use crate::model::{COUNTED, Counted, Counter, RATED};

/// The plane that has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum CountedBy {
    Packet,
    Relay,
}

impl CountedBy {
    pub(in super::super) const ALL: [Self; 2] = [Self::Packet, Self::Relay];

    /// The value of the label `plane`.
    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Relay => "relay",
        }
    }
}

/// What one plane has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Part {
    /// The totals since this agent started to count. They never go down.
    pub(in super::super) totals: Counted,
    /// Open now.
    pub(in super::super) active: u64,
    /// The last sample that had it.
    sample: u64,
}

impl Part {
    /// Whether it was ever counted.
    pub(super) fn has_counted(&self) -> bool {
        self.sample > 0
    }

    /// The part as of a sample: nothing is open if the sample does not have it.
    pub(super) fn at(self, sample: u64) -> Self {
        Self { active: if self.sample == sample { self.active } else { 0 }, ..self }
    }

    /// Adds what the plane has counted since the last time.
    pub(super) fn grow(&mut self, sample: u64, by: [u64; COUNTED], active: u64) {
        if self.sample != sample {
            (self.sample, self.active) = (sample, 0);
        }
        self.active += active;
        let totals = self.totals.numbers();
        self.totals = Counted::of(std::array::from_fn(|n| totals[n].saturating_add(by[n])));
    }
}

/// The traffic of a frontend, or of one of its backends.
#[derive(Clone, Debug)]
pub(in super::super) struct Flow {
    /// By plane.
    parts: [Part; 2],
    pub(in super::super) connect_time: Option<Duration>,
    pub(in super::super) round_trip: Option<Duration>,
    /// It has series of its own.
    pub(in super::super) is_shown: bool,
    pub(super) window: Window<RATED>,
    /// What was counted since the last step ended.
    pending: [f32; RATED],
}

impl Flow {
    pub(super) fn new(window: Window<RATED>, is_shown: bool) -> Self {
        Self {
            parts: Default::default(),
            connect_time: None,
            round_trip: None,
            is_shown,
            window,
            pending: Default::default(),
        }
    }

    /// What this plane has counted; `None`: it has no counter for this in the sample.
    pub(in super::super) fn of(&self, plane: CountedBy, sample: u64) -> Option<&Part> {
        Some(&self.parts[plane as usize]).filter(|part| part.sample == sample)
    }

    /// Whether any plane has a counter for this in the sample.
    pub(super) fn is_of(&self, sample: u64) -> bool {
        self.parts.iter().any(|part| part.sample == sample)
    }

    /// What all planes have counted.
    pub(in super::super) fn totals(&self) -> Counted {
        let [packet, relay] = self.parts.map(|part| part.totals.numbers());
        Counted::of(std::array::from_fn(|n| packet[n].saturating_add(relay[n])))
    }

    /// What is open on all planes.
    pub(in super::super) fn active(&self, sample: u64) -> u64 {
        CountedBy::ALL.into_iter().filter_map(|plane| self.of(plane, sample)).map(|part| part.active).sum()
    }

    /// Adds the growth of one of its counters.
    pub(super) fn grow(
        &mut self,
        (plane, sample): (CountedBy, u64),
        by: [u64; COUNTED],
        counter: Option<&Counter>,
    ) {
        self.parts[plane as usize].grow(sample, by, counter.map_or(0, |counter| counter.active));
        if let Some(counter) = counter {
            self.connect_time = counter.connect_time.or(self.connect_time);
            self.round_trip = counter.round_trip.or(self.round_trip);
        }
        self.pending.iter_mut().zip(by).for_each(|(pending, by)| *pending += by as f32);
    }

    /// Ends a step.
    pub(super) fn end_step(&mut self, steps: &Steps) {
        self.window.set(steps, std::mem::take(&mut self.pending));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_size_that_is_documented() {
        assert!(size_of::<Flow>() <= 420, "{}", size_of::<Flow>());
    }
}
