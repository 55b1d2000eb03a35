// SPDX-License-Identifier: Apache-2.0
//! The last ten minutes of one frontend: its traffic in each second, or in each ten seconds if there are too many frontends
//! for that. Pure.

use std::collections::VecDeque;

/// How long a trail reaches back.
pub(super) const SECONDS: u32 = 600;

/// The longer step.
pub(super) const COARSE_SECS: u32 = 10;

/// How many numbers a point has: what is active, then the rates of [`Counted`](crate::model::Counted).
pub(in super::super) const NUMBERS: usize = 6;

/// The averages within one step. 24 bytes.
pub(in super::super) type Point = [f32; NUMBERS];

/// The last points, the oldest first: 14,400 bytes with steps of a second, 1,440 with steps of ten.
#[derive(Clone, Debug)]
pub(in super::super) struct Trail {
    step_secs: u32,
    points: VecDeque<Point>,
    /// The sum over the seconds of the step that has not ended.
    sum: Point,
    summed: u32,
}

impl Trail {
    /// An empty trail.
    pub(super) fn new(step_secs: u32) -> Self {
        let points = VecDeque::with_capacity((SECONDS / step_secs) as usize);
        Self { step_secs, points, sum: Point::default(), summed: 0 }
    }

    /// Adds this many seconds, with these averages. After missed samples, one call adds several seconds.
    pub(super) fn pass(&mut self, secs: u32, point: Point) {
        for _ in 0..secs.min(SECONDS) {
            self.sum.iter_mut().zip(point).for_each(|(sum, number)| *sum += number);
            self.summed += 1;
            if self.summed < self.step_secs {
                continue;
            }
            if self.points.len() >= (SECONDS / self.step_secs) as usize {
                self.points.pop_front();
            }
            self.points.push_back(self.sum.map(|sum| sum / self.step_secs as f32));
            (self.sum, self.summed) = (Point::default(), 0);
        }
    }

    /// Whether it has steps of a second.
    pub(super) fn is_fine(&self) -> bool {
        self.step_secs == 1
    }

    /// Seconds of each step.
    pub(in super::super) fn step_secs(&self) -> u32 {
        self.step_secs
    }

    /// How many seconds have passed since the end of the last point.
    pub(in super::super) fn rest_secs(&self) -> u32 {
        self.summed
    }

    /// The points, the oldest first.
    pub(in super::super) fn points(&self) -> impl ExactSizeIterator<Item = &Point> {
        self.points.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(active: f32) -> Point {
        [active, 0.0, 0.0, 0.0, 0.0, 0.0]
    }

    fn active(trail: &Trail) -> Vec<f32> {
        trail.points().map(|point| point[0]).collect()
    }

    #[test]
    fn the_last_ten_minutes_are_kept() {
        let mut trail = Trail::new(1);
        (0..SECONDS + 2).for_each(|n| trail.pass(1, point(n as f32)));
        let kept = active(&trail);
        assert_eq!((kept.len(), kept[0], kept[599]), (600, 2.0, 601.0));
    }

    #[test]
    fn a_coarse_trail_has_averages_of_ten_seconds() {
        let mut trail = Trail::new(COARSE_SECS);
        (0..25).for_each(|n| trail.pass(1, point(n as f32)));
        assert_eq!((active(&trail), trail.rest_secs()), (vec![4.5, 14.5], 5));
    }

    #[test]
    fn missed_seconds_have_their_average() {
        let mut trail = Trail::new(1);
        trail.pass(1, point(1.0));
        trail.pass(3, point(7.0));
        assert_eq!(active(&trail), [1.0, 7.0, 7.0, 7.0]);
        trail.pass(u32::MAX, point(9.0));
        assert_eq!((active(&trail).len(), active(&trail)[0]), (600, 9.0));
    }
}
