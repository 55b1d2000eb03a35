// SPDX-License-Identifier: Apache-2.0
//! The metrics of the loop.

use std::collections::BTreeMap;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::model::{FailedBackends, Observed, Phase, PlacementReason, Problem, State};
use crate::ownership::Overview;
use crate::plan::Action;

/// Counts rounds and actions, and shows problems and the size of the desired state.
#[derive(Clone, Debug, Default)]
pub struct ReconcileMetrics {
    pub(super) rounds: Counter,
    actions: Family<ActionLabels, Counter>,
    problems: Family<ProblemLabels, Gauge>,
    frontends: Gauge,
    served: Family<PlacementLabels, Gauge>,
    services: Gauge,
    /// 1 if this agent writes statuses and Events.
    pub(super) writer: Gauge,
    pool_addresses: Family<PoolLabels, Gauge>,
    pool_addresses_used: Family<PoolLabels, Gauge>,
    cluster_pools: Gauge,
    failed_backends: Gauge,
    shares: Family<ShareLabels, Gauge>,
    share_moves: Family<MoveLabels, Counter>,
    drained: Gauge,
}

/// Where shares of the group are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShareLabels {
    state: ShareState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum ShareState {
    Here,
    Elsewhere,
}

/// In which direction a share has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MoveLabels {
    direction: Direction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Direction {
    Here,
    Away,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action: ActionLabel,
    result: ResultLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum ActionLabel {
    ProbeAddress,
    UpsertFrontend,
    RemoveFrontend,
    AddAddress,
    RemoveAddress,
    WriteStatus,
    WriteConditions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum ResultLabel {
    Done,
    Failed,
}

/// `reason` is the name of a [`ProblemReason`](crate::model::ProblemReason), which is a closed list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ProblemLabels {
    reason: String,
}

/// `reason` is one of [`PlacementReason::label`](crate::model::PlacementReason::label); `none` if nothing was chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct PlacementLabels {
    plane: String,
    reason: &'static str,
}

/// `pool` is a name, or the ranges of a pool without one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
    family: String,
}

impl ReconcileMetrics {
    /// Creates the metrics and adds them to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("llb_reconcile_rounds", "Rounds of the reconciler", metrics.rounds.clone());
        registry.register("llb_reconcile_actions", "Actions by kind and result", metrics.actions.clone());
        registry.register("llb_problems", "Problems now, by reason", metrics.problems.clone());
        registry.register("llb_frontends", "Frontends wanted", metrics.frontends.clone());
        let help = "Frontends that are served, by plane and by the reason for that plane";
        registry.register("llb_frontends_served", help, metrics.served.clone());
        registry.register("llb_services", "Services that are served", metrics.services.clone());
        let help =
            "1 if this agent writes statuses and Events, 0 if another one of its group does or nobody knows";
        registry.register("llb_status_writer", help, metrics.writer.clone());
        let help = "Pools of the ConfigMap of --config-map that are in use; it can have at most 256";
        registry.register("llb_cluster_pools", help, metrics.cluster_pools.clone());
        let help = "Addresses that a pool can give, by family";
        registry.register("llb_pool_addresses", help, metrics.pool_addresses.clone());
        let help = "Addresses of a pool that Services have, by family";
        registry.register("llb_pool_addresses_used", help, metrics.pool_addresses_used.clone());
        let help = "Backends that are dead now, each counted for each of its frontends";
        registry.register("llb_failed_backends", help, metrics.failed_backends.clone());
        metrics
    }

    pub(super) fn count(&self, action: &Action, done: bool) {
        let action = match action {
            Action::ProbeAddress { .. } => ActionLabel::ProbeAddress,
            Action::UpsertFrontend { .. } => ActionLabel::UpsertFrontend,
            Action::RemoveFrontend { .. } => ActionLabel::RemoveFrontend,
            Action::AddAddress { .. } => ActionLabel::AddAddress,
            Action::RemoveAddress { .. } => ActionLabel::RemoveAddress,
            Action::WriteStatus { .. } => ActionLabel::WriteStatus,
            Action::WriteConditions { .. } => ActionLabel::WriteConditions,
        };
        let result = if done { ResultLabel::Done } else { ResultLabel::Failed };
        self.actions.get_or_create(&ActionLabels { action, result }).inc();
    }

    pub(super) fn show_cluster_pools(&self, count: usize) {
        self.cluster_pools.set(gauge(count));
    }

    /// Adds the metrics of a group.
    pub fn register_group(&self, registry: &mut Registry) {
        let help = "Shares of the group that this box has, and that it has not";
        registry.register("llb_shares", help, self.shares.clone());
        let help = "Shares that this box has got or lost, also at the start";
        registry.register("llb_share_moves", help, self.share_moves.clone());
        let help = "1 if this box of a group is drained (`llb-agent drain`), 0 if not";
        registry.register("llb_drained", help, self.drained.clone());
    }

    pub(super) fn count_moves(&self, here: usize, away: usize) {
        for (direction, count) in [(Direction::Here, here), (Direction::Away, away)] {
            self.share_moves.get_or_create(&MoveLabels { direction }).inc_by(count as u64);
        }
    }

    pub(super) fn show_group(&self, group: &Overview) {
        let (here, elsewhere) = group.counts();
        self.drained.set(i64::from(group.drained));
        self.shares.get_or_create(&ShareLabels { state: ShareState::Here }).set(gauge(here));
        self.shares.get_or_create(&ShareLabels { state: ShareState::Elsewhere }).set(gauge(elsewhere));
    }

    pub(super) fn show_failed(&self, failed: &FailedBackends) {
        self.failed_backends.set(gauge(failed.values().map(BTreeMap::len).sum::<usize>()));
    }

    pub(super) fn show(&self, desired: &State, observed: &Observed, problems: &[Problem]) {
        self.frontends.set(gauge(desired.frontends.len()));
        self.services.set(gauge(desired.statuses.values().filter(|status| !status.vips.is_empty()).count()));
        let mut served: BTreeMap<PlacementLabels, usize> = BTreeMap::new();
        for status in observed.frontends.values().filter(|status| status.phase == Phase::Serving) {
            let reason = status.placement.why.as_ref().map_or("none", PlacementReason::label);
            let plane = status.placement.plane.to_string();
            *served.entry(PlacementLabels { plane, reason }).or_default() += 1;
        }
        self.served.clear();
        for (labels, count) in served {
            self.served.get_or_create(&labels).set(gauge(count));
        }
        // Pools come and go.
        self.pool_addresses.clear();
        self.pool_addresses_used.clear();
        for usage in &desired.pools {
            let labels = PoolLabels { pool: usage.pool.clone(), family: usage.family.to_string() };
            self.pool_addresses.get_or_create(&labels).set(gauge(usage.total));
            self.pool_addresses_used.get_or_create(&labels).set(gauge(usage.used));
        }
        let mut counts: BTreeMap<ProblemLabels, usize> = BTreeMap::new();
        for problem in problems {
            *counts.entry(ProblemLabels { reason: format!("{:?}", problem.reason) }).or_default() += 1;
        }
        self.problems.clear();
        for (labels, count) in counts {
            self.problems.get_or_create(&labels).set(gauge(count));
        }
    }
}

fn gauge(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::Family::V6;
    use crate::model::{
        Frontend, FrontendStatus, PoolUsage, Port, Protocol, RelayFeature, Rule, ServiceName, Terms,
    };

    #[test]
    fn served_frontends_are_counted_by_plane_and_reason() {
        let mut registry = Registry::default();
        let metrics = ReconcileMetrics::register(&mut registry);
        let rule = Rule::new(ServiceName::new("a", "b"), BTreeMap::new(), Terms::default());
        let mut status = FrontendStatus::relayed(Arc::new(rule), Phase::Serving);
        status.placement.why = Some(PlacementReason::NeedsRelay(RelayFeature::ProxyProtocol));
        let vip = "192.0.2.1".parse().unwrap();
        let frontend = |port| Frontend { vip, port: Port::new(port).unwrap(), protocol: Protocol::Tcp };
        let frontends = [80, 81].map(|port| (frontend(port), status.clone())).into();
        let observed = Observed { frontends, ..Observed::default() };
        metrics.show(&State::default(), &observed, &[]);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = "llb_frontends_served{plane=\"userspace\",reason=\"needs_relay\"} 2";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn pools_are_counted_by_family() {
        let mut registry = Registry::default();
        let metrics = ReconcileMetrics::register(&mut registry);
        let usage = PoolUsage { pool: "web".to_owned(), family: V6, total: u64::MAX, used: 3, routed: true };
        metrics.show(&State { pools: vec![usage], ..State::default() }, &Observed::default(), &[]);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "llb_pool_addresses{pool=\"web\",family=\"IPv6\"} 9223372036854775807",
            "llb_pool_addresses_used{pool=\"web\",family=\"IPv6\"} 3",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
