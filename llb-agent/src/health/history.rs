// SPDX-License-Identifier: Apache-2.0
//! From single results to a verdict. One lost packet must not take a backend away. Pure.

use crate::model::Verdict;

/// So many failures in a row make a healthy backend unhealthy. The first result and a success count at once.
const FAILURES: u32 = 2;

/// The results of one check so far.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    verdict: Option<Verdict>,
    /// Failures since the last success.
    failures: u32,
}

impl History {
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Takes one more result, and returns whether the verdict has changed. A failing check keeps its first failure,
    /// so that its text stays the same. What the backend says replaces silence.
    pub(super) fn note(&mut self, result: Verdict) -> bool {
        self.failures = match result {
            Verdict::Healthy => 0,
            Verdict::Unhealthy(_) => self.failures.saturating_add(1),
        };
        let changes = match (self.verdict, result) {
            (None, _) | (Some(Verdict::Unhealthy(_)), Verdict::Healthy) => true,
            (Some(Verdict::Unhealthy(known)), Verdict::Unhealthy(new)) => new.is_said() && !known.is_said(),
            (Some(Verdict::Healthy), Verdict::Unhealthy(_)) => self.failures >= FAILURES,
            (Some(_), _) => false,
        };
        if changes {
            self.verdict = Some(result);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Failure;

    #[test]
    fn two_failures_in_a_row_change_a_verdict_and_so_does_one_success() {
        let [ok, silent, refused, away] = [
            Verdict::Healthy,
            Verdict::Unhealthy(Failure::NoAnswer),
            Verdict::Unhealthy(Failure::NoConnection),
            Verdict::Unhealthy(Failure::Status(503)),
        ];
        let mut history = History::default();
        for (result, changes, verdict) in [
            (ok, true, ok),
            (silent, false, ok),
            (ok, false, ok),
            (silent, false, ok),
            (silent, true, silent),
            (refused, false, silent),
            (away, true, away),
            (silent, false, away),
            (ok, true, ok),
        ] {
            assert_eq!((history.note(result), history.verdict()), (changes, Some(verdict)));
        }
        // The first result counts, whatever it is.
        assert!(History::default().note(refused));
    }
}
