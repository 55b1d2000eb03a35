// SPDX-License-Identifier: Apache-2.0
//! How much counters have grown within the last seconds. Pure: the caller says how long each step was.
//!
//! ```text
//!   Counter of a plane -- grown(before, now) --> Window: growth in each of the last ten steps
//!                                                Steps: how long each of them was, the same for all windows
//! ```

/// How many steps a window has.
pub(crate) const WINDOW: usize = 10;

/// By how much a counter has grown. A counter that is smaller than before has started again at 0.
pub(super) fn grown(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// The steps so far. A step is the time from one sample to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps {
    /// How many there were.
    count: u64,
    /// How many seconds each of the last steps took. The number of a step gives its place.
    secs: [f32; WINDOW],
}

impl Steps {
    /// Adds a step.
    pub(super) fn pass(&mut self, secs: f32) {
        self.secs[place(self.count)] = secs;
        self.count += 1;
    }

    /// The number of the last step; 0 before the first one.
    pub(super) fn last(&self) -> u64 {
        self.count
    }
}

/// The growth of `N` counters in each of the last steps. 4 bytes each.
#[derive(Clone, Debug)]
pub(super) struct Window<const N: usize> {
    /// The step before its first one.
    began: u64,
    growth: [[f32; N]; WINDOW],
}

/// Growth per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Rates<const N: usize> {
    pub(in super::super) per_second: [f64; N],
    /// The time over which they are averages.
    pub(in super::super) secs: f64,
}

impl<const N: usize> Window<N> {
    /// A window whose counters began in the last step, or were there before all steps.
    pub(super) fn new(steps: &Steps) -> Self {
        Self { began: steps.last().saturating_sub(1), ..Self::from_now(steps) }
    }

    /// A window of counters whose growth is not known yet.
    pub(super) fn from_now(steps: &Steps) -> Self {
        Self { began: steps.last(), growth: [[0.0; N]; WINDOW] }
    }

    /// How much the counters have grown in the last step.
    pub(super) fn set(&mut self, steps: &Steps, growth: [f32; N]) {
        if let Some(step) = steps.last().checked_sub(1) {
            self.growth[place(step)] = growth;
        }
    }

    /// The rates over the last `over` steps, or as many as there were; `None` before the first one.
    pub(super) fn rates(&self, steps: &Steps, over: usize) -> Option<Rates<N>> {
        let age = usize::try_from(steps.last() - self.began).unwrap_or(WINDOW);
        let places = || (0..over.min(WINDOW).min(age)).map(|back| place(steps.last() - 1 - back as u64));
        let secs: f64 = places().map(|place| f64::from(steps.secs[place])).sum();
        let sum = |n: usize| places().map(|place| f64::from(self.growth[place][n])).sum::<f64>();
        (secs > 0.0).then(|| Rates { per_second: std::array::from_fn(|n| sum(n) / secs), secs })
    }
}

fn place(step: u64) -> usize {
    (step % WINDOW as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_began_anew_has_grown_by_what_it_has() {
        assert_eq!([grown(7, 10), grown(10, 10), grown(10, 3)], [3, 0, 3]);
    }

    /// Rates after steps of these lengths, each with its growth.
    fn after(steps: &mut Steps, window: &mut Window<1>, taken: &[(f32, f32)]) {
        for (secs, by) in taken {
            steps.pass(*secs);
            window.set(steps, [*by]);
        }
    }

    fn per_second(window: &Window<1>, steps: &Steps, over: usize) -> Option<(f64, f64)> {
        window.rates(steps, over).map(|rates| (rates.per_second[0], rates.secs))
    }

    #[test]
    fn a_rate_is_over_the_last_steps_and_over_no_more_than_there_were() {
        let mut steps = Steps::default();
        let mut window = Window::new(&steps);
        assert_eq!(per_second(&window, &steps, 10), None, "one sample makes no rate");
        after(&mut steps, &mut window, &[(1.0, 10.0), (1.0, 20.0)]);
        assert_eq!(per_second(&window, &steps, 10), Some((15.0, 2.0)));
        assert_eq!(per_second(&window, &steps, 1), Some((20.0, 1.0)));
        after(&mut steps, &mut window, &[(1.0, 0.0); WINDOW]);
        assert_eq!(per_second(&window, &steps, 100), Some((0.0, 10.0)), "what is older is forgotten");
    }

    #[test]
    fn a_sample_that_was_missed_makes_a_longer_step_not_a_higher_rate() {
        let mut steps = Steps::default();
        let mut window = Window::new(&steps);
        after(&mut steps, &mut window, &[(1.0, 100.0), (5.0, 500.0)]);
        assert_eq!(per_second(&window, &steps, 1), Some((100.0, 5.0)));
        assert_eq!(per_second(&window, &steps, 2), Some((100.0, 6.0)));
    }

    #[test]
    fn a_later_window_has_only_its_own_steps() {
        let mut steps = Steps::default();
        [1.0; 25].into_iter().for_each(|secs| steps.pass(secs));
        let mut window = Window::new(&steps);
        window.set(&steps, [8.0]);
        assert_eq!(per_second(&window, &steps, 10), Some((8.0, 1.0)));
        after(&mut steps, &mut window, &[(1.0, 2.0)]);
        assert_eq!(per_second(&window, &steps, 10), Some((5.0, 2.0)));
    }
}
