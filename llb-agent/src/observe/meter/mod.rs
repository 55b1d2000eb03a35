// SPDX-License-Identifier: Apache-2.0
//! The traffic of each frontend, backend and link: totals, and rates from one sample to the next. Pure; the samples and
//! their times are arguments.
//!
//! ```text
//!   sample of the planes --> Meter
//!                              |-- Flow for each frontend and each backend        flows.rs, flow.rs
//!                              |     |-- totals by plane
//!                              |     `-- growth in each of the last ten steps     window.rs
//!                              `-- Trail for each frontend: ten minutes           trail.rs
//! ```
//!
//! | kept for | bytes | at most |
//! |---|---|---|
//! | a frontend | about 500, and its trail: 14,400 or 1,440 | [`FINE`] and [`COARSE`] frontends |
//! | a backend of a frontend | about 500 | [`BACKENDS`] |
//! | a counter of a plane | about 100 | [`COUNTERS`] |
//!
//! With 10,000 frontends of two backends each that is less than 60 MiB.

mod flow;
mod flows;
mod tally;
mod trail;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use llb_common::reason::Reason;

pub(super) use self::flow::{CountedBy, Flow, Part};
use self::flows::Flows;
pub(super) use self::tally::Tally;
use self::tally::tally;
use self::trail::{COARSE_SECS, Point};
pub(super) use self::trail::{NUMBERS, Trail};
pub(super) use self::window::Rates;
pub(crate) use self::window::WINDOW;
use self::window::{Steps, Window, grown};
use crate::model::{Backend, COUNTED, Counted, Counter, Counts, Fill, Frontend, RATED};

/// The most frontends whose trail has a point for each second.
const FINE: usize = 1_024;
/// The most further frontends, whose trails have a point for every ten seconds. Frontends beyond these have neither rates nor a
/// trail.
const COARSE: usize = 10_240;
/// The most backends of frontends with rates of their own.
const BACKENDS: usize = 32_768;
/// The most counters of planes that are compared with the sample before.
const COUNTERS: usize = 65_536;

/// The most frontends and backends with series of their own, so that a scrape stays readable.
const SHOWN: [usize; 2] = [1_000, 5_000];

/// The traffic of everything.
#[derive(Debug)]
pub(crate) struct Meter {
    steps: Steps,
    /// The number of the last sample; the first one is 1.
    sample: u64,
    /// When the last step ended.
    stepped: Option<Instant>,
    /// Seconds that have passed but are in no trail yet; negative: the trails are ahead by so many.
    owed: f64,
    before: HashMap<u64, Seen>,
    /// The sample before had more counters than the limit, so some were not compared.
    was_cut: bool,
    frontends: Flows<Frontend>,
    backends: Flows<(Frontend, Backend)>,
    trails: BTreeMap<Frontend, Trail>,
    /// The trail of all frontends together.
    sum: Trail,
    /// The sums for frontends and for backends without series of their own, by plane.
    others: [[Part; 2]; 2],
    /// Counters of the last sample that have no row.
    left_out: usize,
    pub(super) links: BTreeMap<String, Tally<2>>,
    pub(super) reasons: BTreeMap<Reason, Tally<1>>,
    pub(super) maps: Vec<Fill>,
    pub(super) limits: Vec<Fill>,
}

/// The value of a counter in a sample.
#[derive(Clone, Copy, Debug)]
struct Seen {
    counted: Counted,
    sample: u64,
}

/// Frontends or backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Frontends,
    Backends,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            steps: Steps::default(),
            sample: 0,
            stepped: None,
            owed: 0.0,
            before: HashMap::new(),
            was_cut: false,
            frontends: Flows::new(SHOWN[0], FINE + COARSE),
            backends: Flows::new(SHOWN[1], BACKENDS),
            trails: BTreeMap::new(),
            sum: Trail::new(1),
            others: Default::default(),
            left_out: 0,
            links: BTreeMap::new(),
            reasons: BTreeMap::new(),
            maps: Vec::new(),
            limits: Vec::new(),
        }
    }
}

impl Meter {
    /// Takes in a sample, which ends a step. What the planes no longer count is forgotten.
    pub(super) fn step(&mut self, sample: Counts, now: Instant) {
        if let Some(before) = self.stepped {
            let secs = now.saturating_duration_since(before).as_secs_f32();
            if secs <= 0.0 {
                return;
            }
            self.steps.pass(secs);
            self.owed += f64::from(secs);
        }
        self.stepped = Some(now);
        self.follow(&sample, true);
        for link in sample.links {
            tally(&mut self.links, link.link, [link.packets, link.bytes], (&self.steps, self.sample));
        }
        for (reason, count) in sample.reasons {
            tally(&mut self.reasons, reason, [count], (&self.steps, self.sample));
        }
        self.links.retain(|_, link| link.is_of(self.sample));
        self.reasons.retain(|_, reason| reason.is_of(self.sample));
        (self.maps, self.limits) = (sample.maps, sample.limits);
        self.follow_trails();
    }

    /// Brings the totals up to date with a sample between two steps. The growth belongs to the step that has begun.
    pub(super) fn catch_up(&mut self, sample: &Counts) {
        self.follow(sample, false);
    }

    fn follow(&mut self, sample: &Counts, ends_step: bool) {
        self.sample += 1;
        self.left_out = sample.shared;
        let packet = sample.packet.iter().map(|counter| (counter, CountedBy::Packet));
        let all = packet.chain(sample.relay.iter().map(|counter| (counter, CountedBy::Relay)));
        for (counter, plane) in all.take(COUNTERS) {
            let seen = Seen { counted: counter.counted, sample: self.sample };
            let grown = match self.before.insert(counter.number, seen) {
                Some(before) => {
                    let (before, now) = (before.counted.numbers(), counter.counted.numbers());
                    std::array::from_fn(|n| grown(before[n], now[n]))
                }
                // It is older than this agent's counting, as one of the packet plane may be, or there was no room.
                None if self.was_cut || (self.sample == 1 && plane == CountedBy::Packet) => [0; COUNTED],
                None => counter.counted.numbers(),
            };
            self.add(counter, grown, plane, ends_step);
        }
        self.before.retain(|_, seen| seen.sample == self.sample);
        let beyond = (sample.packet.len() + sample.relay.len()).saturating_sub(COUNTERS);
        self.was_cut = beyond > 0;
        self.left_out += beyond;
        if ends_step {
            self.frontends.end_step(&self.steps, self.sample);
            self.backends.end_step(&self.steps, self.sample);
        }
    }

    /// Adds the growth of a counter.
    fn add(&mut self, counter: &Counter, grown: [u64; COUNTED], plane: CountedBy, ends_step: bool) {
        let Counter { frontend, backend, .. } = *counter;
        let window = || if ends_step { Window::new(&self.steps) } else { Window::from_now(&self.steps) };
        let at = (plane, self.sample);
        let [others_frontends, others_backends] = &mut self.others;
        let mut is_left_out = false;
        if let Some(backend) = backend {
            let flow = self.backends.entry((frontend, backend), window);
            is_left_out |= flow.is_none();
            grow(flow, &mut others_backends[plane as usize], at, grown, Some(counter));
        }
        let flow = self.frontends.entry(frontend, window);
        is_left_out |= flow.is_none();
        let others = &mut others_frontends[plane as usize];
        if plane == CountedBy::Packet || backend.is_none() {
            let counter = Counter { connect_time: None, round_trip: None, ..*counter };
            grow(flow, others, at, grown, Some(&counter));
        } else {
            // The frontend's own counter counts the rest.
            let failures = Counted { failures: Counted::of(grown).failures, ..Counted::default() };
            grow(flow, others, at, failures.numbers(), None);
        }
        self.left_out += usize::from(is_left_out);
    }

    fn follow_trails(&mut self) {
        let secs = self.owed.round().max(0.0);
        self.owed -= secs;
        self.trails.retain(|frontend, _| self.frontends.get(frontend).is_some());
        let mut fine = self.trails.values().filter(|trail| trail.is_fine()).count();
        let mut sum = Point::default();
        for (frontend, flow) in self.frontends.all() {
            let trail = self.trails.entry(*frontend).or_insert_with(|| {
                let step = if fine < FINE { 1 } else { COARSE_SECS };
                fine += usize::from(step == 1);
                Trail::new(step)
            });
            let Some(rates) = flow.window.rates(&self.steps, 1) else { continue };
            let [new, bytes_in, bytes_out, refused, failures] = rates.per_second.map(|rate| rate as f32);
            let point = [flow.active(self.sample) as f32, new, bytes_in, bytes_out, refused, failures];
            trail.pass(secs as u32, point);
            sum.iter_mut().zip(point).for_each(|(sum, number)| *sum += number);
        }
        self.sum.pass(secs as u32, sum);
    }

    /// The number of the last sample.
    pub(super) fn sample(&self) -> u64 {
        self.sample
    }

    /// The traffic of a frontend.
    pub(super) fn frontend(&self, frontend: &Frontend) -> Option<&Flow> {
        self.frontends.get(frontend)
    }

    /// The traffic of a backend of a frontend.
    pub(super) fn backend(&self, frontend: Frontend, backend: Backend) -> Option<&Flow> {
        self.backends.get(&(frontend, backend))
    }

    /// The frontends that have series of their own.
    pub(super) fn shown_frontends(&self) -> impl Iterator<Item = (&Frontend, &Flow)> {
        self.frontends.shown()
    }

    /// The backends that have series of their own.
    pub(super) fn shown_backends(&self) -> impl Iterator<Item = (&(Frontend, Backend), &Flow)> {
        self.backends.shown()
    }

    /// The sum of those without series of their own; `None`: there were never any.
    pub(super) fn others(&self, of: Of, plane: CountedBy) -> Option<Part> {
        let part = self.others[of as usize][plane as usize];
        part.has_counted().then(|| part.at(self.sample))
    }

    /// How many counters have no row, because there are too many.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// The rates of a flow over so many steps.
    pub(super) fn rates(&self, flow: &Flow, over: usize) -> Option<Rates<RATED>> {
        flow.window.rates(&self.steps, over)
    }

    /// The rates of a link or a reason over so many steps.
    pub(super) fn tally_rates<const N: usize>(&self, tally: &Tally<N>, over: usize) -> Option<Rates<N>> {
        tally.rates(&self.steps, over)
    }

    /// The trail of the frontend with this name; without one, that of all together.
    pub(super) fn trail(&self, name: Option<&str>) -> Option<&Trail> {
        let Some(name) = name else { return Some(&self.sum) };
        self.trails.get(&Frontend::named(name)?)
    }
}

/// Adds growth to a flow. If it has no series of its own, the growth counts in the shared series.
fn grow(
    flow: Option<&mut Flow>,
    others: &mut Part,
    at: (CountedBy, u64),
    by: [u64; COUNTED],
    counter: Option<&Counter>,
) {
    if flow.as_ref().is_none_or(|flow| !flow.is_shown) {
        others.grow(at.1, by, counter.map_or(0, |counter| counter.active));
    }
    if let Some(flow) = flow {
        flow.grow(at, by, counter);
    }
}

#[cfg(test)]
mod tests;
