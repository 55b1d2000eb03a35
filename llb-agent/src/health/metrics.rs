// SPDX-License-Identifier: Apache-2.0
//! Counts checks and their results.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::model::Verdict;

type Labels = [(&'static str, &'static str); 1];

/// The metrics of the room.
#[derive(Clone, Debug, Default)]
pub(super) struct HealthMetrics {
    /// Checks now, by verdict.
    checks: Family<Labels, Gauge>,
    /// Results, by what they were.
    results: Family<Labels, Counter>,
    /// Checks beyond the limit.
    left_out: Gauge,
}

impl HealthMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("llb_health_checks", "Health checks now, by verdict", metrics.checks.clone());
        registry.register("llb_health_results", "Results of health checks", metrics.results.clone());
        let help = "Health checks that are not made, because there are too many";
        registry.register("llb_health_checks_left_out", help, metrics.left_out.clone());
        metrics
    }

    pub(super) fn result(&self, result: Verdict) {
        self.results.get_or_create(&[("result", name(Some(result)))]).inc();
    }

    /// Shows all checks.
    pub(super) fn show(&self, verdicts: impl Iterator<Item = Option<Verdict>>, left_out: usize) {
        let mut counts = [0_i64; 3];
        let kinds = [Some(Verdict::Healthy), Some(Verdict::Unhealthy(crate::model::Failure::NoAnswer)), None];
        for verdict in verdicts {
            let place = match verdict {
                Some(Verdict::Healthy) => 0,
                Some(Verdict::Unhealthy(_)) => 1,
                None => 2,
            };
            counts[place] += 1;
        }
        for (kind, count) in kinds.into_iter().zip(counts) {
            self.checks.get_or_create(&[("verdict", name(kind))]).set(count);
        }
        self.left_out.set(i64::try_from(left_out).unwrap_or(i64::MAX));
    }
}

fn name(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Healthy) => "healthy",
        Some(Verdict::Unhealthy(_)) => "unhealthy",
        None => "unknown",
    }
}
