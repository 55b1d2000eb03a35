// SPDX-License-Identifier: Apache-2.0
//! What the tasks of one frontend share: its rule, its open connections and
//! what it knows of its backends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::connections::Connections;
use super::lifecycle::Lifecycle;
use super::metrics::Refusal;
use super::namespace_share::NamespaceUse;
use super::plane_context::PlaneContext;
use super::selection::{Chosen, Criteria, Selection};
use super::service_limit::ServiceCount;
use super::traffic::FrontendTraffic;
use crate::model::{Backend, FailureReason, Frontend, Rule};

/// Shared by all tasks of one frontend.
#[derive(Debug)]
pub(super) struct FrontendContext {
    pub(super) plane: Arc<PlaneContext>,
    pub(super) frontend: Frontend,
    /// The rule for new connections and for each datagram.
    pub(super) active_rule: ArcSwap<ActiveRule>,
    pub(super) selection: Selection,
    /// Open TCP connections. UDP sessions end with their socket.
    pub(super) connections: Connections,
    pub(super) lifecycle: Lifecycle,
}

/// A rule, with what each connection would otherwise have to look up.
#[derive(Debug)]
pub(super) struct ActiveRule {
    pub(super) rule: Arc<Rule>,
    /// Open connections of the rule's Service.
    pub(super) service_count: Arc<ServiceCount>,
    /// What the Service's namespace has open.
    pub(super) namespace: Arc<NamespaceUse>,
    pub(super) traffic: Arc<FrontendTraffic>,
}

impl FrontendContext {
    pub(super) fn new(frontend: Frontend, rule: &Arc<Rule>, plane: Arc<PlaneContext>) -> Self {
        Self {
            frontend,
            active_rule: ArcSwap::from_pointee(ActiveRule::new(frontend, rule, &plane)),
            selection: Selection::new(frontend, plane.counters.traffic.clone()),
            connections: Connections::default(),
            lifecycle: Lifecycle::default(),
            plane,
        }
    }

    /// New connections follow `rule` from now on.
    pub(super) fn set_rule(&self, rule: &Arc<Rule>) {
        self.active_rule.store(Arc::new(ActiveRule::new(self.frontend, rule, &self.plane)));
    }

    /// Chooses a backend for `client` by `rule`, its affinity included, but none
    /// of `tried`. `None`: all backends were tried.
    pub(super) fn choose(
        &self,
        rule: &Arc<Rule>,
        client: SocketAddr,
        tried: &[Backend],
        now: Instant,
    ) -> Option<Chosen> {
        let select = |preferred| self.selection.next(rule, Criteria { client, preferred, tried }, now);
        match rule.terms.affinity_timeout {
            Some(timeout) => self.plane.affinity.keep((&rule.service, client.ip()), timeout, now, select),
            None => select(None),
        }
    }

    /// `backend` could not be reached, because of `error`.
    pub(super) fn failed(&self, backend: Backend, error: &io::Error, now: Instant) {
        if self.selection.failed(backend, FailureReason::from(error), now) {
            self.plane.health_changed.notify_one();
        }
    }

    /// The chosen backend answered.
    pub(super) fn answered(&self, chosen: &Chosen) {
        if self.selection.answered(chosen) {
            self.plane.health_changed.notify_one();
        }
    }

    /// Counts connections or datagrams that were refused.
    pub(super) fn refused(&self, reason: Refusal, count: u64) {
        self.plane.counters.totals.refusals(self.frontend.protocol, reason).inc_by(count);
        self.active_rule.load().traffic.refusals(reason).inc_by(count);
    }
}

impl ActiveRule {
    fn new(frontend: Frontend, rule: &Arc<Rule>, plane: &PlaneContext) -> Self {
        Self {
            rule: Arc::clone(rule),
            service_count: plane.limits.services.of(&rule.service),
            namespace: plane.limits.namespaces.of(&rule.service.namespace),
            traffic: plane.counters.traffic.of_frontend(&rule.service, frontend),
        }
    }
}
