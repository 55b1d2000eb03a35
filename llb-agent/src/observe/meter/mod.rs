// SPDX-License-Identifier: Apache-2.0
//! What goes through each frontend, backend and link: totals, and rates from one sample to the next. Pure; the samples and
//! their times are arguments. Growth in the last steps: window.rs; ten minutes of a frontend: trail.rs.
//!
//! | kept for | bytes | at most |
//! |---|---|---|
//! | a frontend | about 400, and its trail: 14,400 or 1,440 | [`FINE`] and [`COARSE`] frontends |
//! | a backend of a frontend | about 400 | [`BACKENDS`] |
//! | a counter of a plane | about 80 | [`COUNTERS`] |
//!
//! With 10,000 frontends of two backends each that is less than 60 MiB.

mod trail;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use llb_common::reason::Reason;

use self::trail::{COARSE_SECS, Point};
pub(super) use self::trail::{NUMBERS, Trail};
pub(super) use self::window::Rates;
pub(crate) use self::window::WINDOW;
use self::window::{Steps, Window, grown};
use crate::model::{Backend, COUNTED, Counted, Counter, Counts, Fill, Frontend};

/// The most frontends whose trail has a point for each second.
pub(super) const FINE: usize = 1_024;
/// The most frontends beyond them, whose trails have a point for ten seconds. Further ones have neither rates nor a trail.
pub(super) const COARSE: usize = 10_240;
/// The most backends of frontends with rates of their own.
pub(super) const BACKENDS: usize = 32_768;
/// The most counters of planes that are compared with the sample before.
pub(super) const COUNTERS: usize = 65_536;

/// What goes through a frontend, or to one of its backends.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// Since the agent has counted it.
    pub(super) totals: Counted,
    /// Open now.
    pub(super) active: u64,
    pub(super) connect_time: Option<Duration>,
    pub(super) round_trip: Option<Duration>,
    /// Refusals are counted for it: the relay does that, the packet plane does not.
    pub(super) counts_refusals: bool,
    window: Window<COUNTED>,
}

/// What came in on a link, in frames and bytes, or how often a reason was counted.
#[derive(Clone, Debug)]
pub(super) struct Tally<const N: usize> {
    pub(super) totals: [u64; N],
    window: Window<N>,
}

/// Everything that goes through.
#[derive(Debug)]
pub(crate) struct Meter {
    steps: Steps,
    sampled: Option<Instant>,
    /// Seconds that no trail has yet; negative: that they have too many.
    owed: f64,
    before: HashMap<u64, Counted>,
    /// The sample before had more counters than are compared.
    was_cut: bool,
    frontends: BTreeMap<Frontend, Flow>,
    backends: BTreeMap<(Frontend, Backend), Flow>,
    trails: BTreeMap<Frontend, Trail>,
    /// Of all frontends together.
    sum: Trail,
    pub(super) links: BTreeMap<String, Tally<2>>,
    pub(super) reasons: BTreeMap<Reason, Tally<1>>,
    pub(super) maps: Vec<Fill>,
    pub(super) limits: Vec<Fill>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            steps: Steps::default(),
            sampled: None,
            owed: 0.0,
            before: HashMap::new(),
            was_cut: false,
            frontends: BTreeMap::new(),
            backends: BTreeMap::new(),
            trails: BTreeMap::new(),
            sum: Trail::new(1),
            links: BTreeMap::new(),
            reasons: BTreeMap::new(),
            maps: Vec::new(),
            limits: Vec::new(),
        }
    }
}

impl Meter {
    /// Takes in a sample. What the planes do not count any more is forgotten.
    pub(super) fn take(&mut self, sample: Counts, now: Instant) {
        let is_first = self.sampled.is_none();
        if let Some(before) = self.sampled {
            let secs = now.saturating_duration_since(before).as_secs_f32();
            if secs <= 0.0 {
                return;
            }
            self.steps.pass(secs);
            self.owed += f64::from(secs);
        }
        self.sampled = Some(now);
        self.follow_flows(&sample, is_first);
        self.follow_trails();
        for link in sample.links {
            let totals = [link.packets, link.bytes];
            tally(&mut self.links, link.link, totals, &self.steps);
        }
        for (reason, count) in sample.reasons {
            tally(&mut self.reasons, reason, [count], &self.steps);
        }
        self.links.retain(|_, link| link.window.is_current(&self.steps));
        self.reasons.retain(|_, reason| reason.window.is_current(&self.steps));
        (self.maps, self.limits) = (sample.maps, sample.limits);
    }

    fn follow_flows(&mut self, sample: &Counts, is_first: bool) {
        let before = std::mem::take(&mut self.before);
        let is_cut = sample.packet.len() + sample.relay.len() > COUNTERS;
        let packet = sample.packet.iter().map(|counter| (counter, true));
        let all = packet.chain(sample.relay.iter().map(|counter| (counter, false)));
        for (counter, is_packet) in all.take(COUNTERS) {
            let grown = match before.get(&counter.number) {
                Some(before) => {
                    let (before, now) = (before.numbers(), counter.counted.numbers());
                    std::array::from_fn(|n| grown(before[n], now[n]))
                }
                // It was there before this agent counted, or before there was room for it.
                None if is_first || self.was_cut => [0; COUNTED],
                None => counter.counted.numbers(),
            };
            self.before.insert(counter.number, counter.counted);
            self.add(counter, grown, is_packet);
        }
        self.was_cut = is_cut;
        self.frontends.retain(|_, flow| flow.window.is_current(&self.steps));
        self.backends.retain(|_, flow| flow.window.is_current(&self.steps));
    }

    /// A counter has grown.
    fn add(&mut self, counter: &Counter, grown: [u64; COUNTED], is_packet: bool) {
        let steps = &self.steps;
        let Counter { frontend, backend, active, .. } = *counter;
        if let Some(backend) = backend
            && let Some(flow) = entry(&mut self.backends, (frontend, backend), BACKENDS, steps)
        {
            flow.grow(steps, grown, active);
            flow.connect_time = counter.connect_time.or(flow.connect_time);
            flow.round_trip = counter.round_trip.or(flow.round_trip);
        }
        let Some(flow) = entry(&mut self.frontends, frontend, FINE + COARSE, steps) else { return };
        if is_packet || backend.is_none() {
            flow.grow(steps, grown, active);
        } else {
            // The frontend's own counter has the rest.
            let failures = Counted { failures: Counted::of(grown).failures, ..Counted::default() };
            flow.grow(steps, failures.numbers(), 0);
        }
        flow.counts_refusals |= !is_packet;
    }

    fn follow_trails(&mut self) {
        let secs = self.owed.round().max(0.0);
        self.owed -= secs;
        self.trails.retain(|frontend, _| self.frontends.contains_key(frontend));
        let mut fine = self.trails.values().filter(|trail| trail.is_fine()).count();
        let mut sum = Point::default();
        for (frontend, flow) in &self.frontends {
            let trail = self.trails.entry(*frontend).or_insert_with(|| {
                let step = if fine < FINE { 1 } else { COARSE_SECS };
                fine += usize::from(step == 1);
                Trail::new(step)
            });
            let Some(rates) = flow.window.rates(&self.steps, 1) else { continue };
            let [new, bytes_in, bytes_out, refused, failures] = rates.per_second.map(|rate| rate as f32);
            let point = [flow.active as f32, new, bytes_in, bytes_out, refused, failures];
            trail.pass(secs as u32, point);
            sum.iter_mut().zip(point).for_each(|(sum, number)| *sum += number);
        }
        self.sum.pass(secs as u32, sum);
    }

    /// What goes through a frontend.
    pub(super) fn frontend(&self, frontend: &Frontend) -> Option<&Flow> {
        self.frontends.get(frontend)
    }

    /// What goes to a backend of a frontend.
    pub(super) fn backend(&self, frontend: Frontend, backend: Backend) -> Option<&Flow> {
        self.backends.get(&(frontend, backend))
    }

    /// The rates of such a flow over so many steps.
    pub(super) fn rates(&self, flow: &Flow, over: usize) -> Option<Rates<COUNTED>> {
        flow.window.rates(&self.steps, over)
    }

    /// The rates of a link or a reason over so many steps.
    pub(super) fn tally_rates<const N: usize>(&self, tally: &Tally<N>, over: usize) -> Option<Rates<N>> {
        tally.window.rates(&self.steps, over)
    }

    /// The trail of the frontend with this name; without one, that of all together.
    pub(super) fn trail(&self, name: Option<&str>) -> Option<&Trail> {
        let Some(name) = name else { return Some(&self.sum) };
        self.trails.iter().find(|(frontend, _)| frontend.to_string() == name).map(|(_, trail)| trail)
    }
}

impl Flow {
    fn grow(&mut self, steps: &Steps, by: [u64; COUNTED], active: u64) {
        if self.window.touch(steps) {
            (self.active, self.counts_refusals) = (0, false);
            (self.connect_time, self.round_trip) = (None, None);
        }
        self.window.grow(steps, by);
        self.active += active;
        let totals = self.totals.numbers();
        self.totals = Counted::of(std::array::from_fn(|n| totals[n].saturating_add(by[n])));
    }
}

/// The flow with this key, a new one if there is room.
fn entry<'a, K: Ord>(
    flows: &'a mut BTreeMap<K, Flow>,
    key: K,
    most: usize,
    steps: &Steps,
) -> Option<&'a mut Flow> {
    if flows.len() >= most && !flows.contains_key(&key) {
        return None;
    }
    let new = || Flow {
        totals: Counted::default(),
        active: 0,
        connect_time: None,
        round_trip: None,
        counts_refusals: false,
        window: Window::new(steps),
    };
    Some(flows.entry(key).or_insert_with(new))
}

/// Takes in the totals of one key. How much a new one has grown before is not known.
fn tally<K: Ord, const N: usize>(
    tallies: &mut BTreeMap<K, Tally<N>>,
    key: K,
    totals: [u64; N],
    steps: &Steps,
) {
    let new = || Tally { totals, window: Window::from_now(steps) };
    let tally = tallies.entry(key).or_insert_with(new);
    tally.window.touch(steps);
    tally.window.grow(steps, std::array::from_fn(|n| grown(tally.totals[n], totals[n])));
    tally.totals = totals;
}

#[cfg(test)]
mod tests;
