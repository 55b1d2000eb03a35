// SPDX-License-Identifier: Apache-2.0
//! The proxy plane as the rest of the agent sees it: all of its frontends, and
//! the sockets that pass from one agent to the next.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::bind;
use super::counting::RelayCounting;
use super::frontend::RunningFrontend;
use super::inherited::RelaySocket;
use super::plane_context::PlaneContext;
use super::role::Role;
use crate::config::RelayConfig;
use crate::dataplane::{DataPlane, DataPlaneError};
use crate::model::{FailedBackends, Frontend, FrontendStatus, OtherClients, Problem, Rule};

/// The loop looks at the backends' health at most this often, however often they fail and answer.
const HEALTH_PACE: Duration = Duration::from_secs(1);

/// Serves frontends by accepting and connecting. Must live in a tokio runtime.
#[derive(Debug)]
pub struct ProxyPlane {
    pub(super) context: Arc<PlaneContext>,
    frontends: BTreeMap<Frontend, RunningFrontend>,
    /// Tells the loop about the backends' health.
    news: JoinHandle<()>,
}

impl ProxyPlane {
    /// A plane without frontends. `changed` is notified whenever
    /// [`observe`](DataPlane::observe) would return something new although no
    /// method was called: a drain has ended, or a listener has died. A frontend
    /// whose listener died is reported as draining until `upsert` repairs it.
    ///
    /// # Errors
    /// The plane's threads can't be started, or there are no descriptors left.
    pub fn new(config: RelayConfig, registry: &mut Registry, changed: Arc<Notify>) -> io::Result<Self> {
        let context = PlaneContext::new(config, registry, changed)?;
        let news = tokio::spawn(pass_on(Arc::clone(&context.health_changed), Arc::clone(&context.changed)));
        Ok(Self { context: Arc::new(context), frontends: BTreeMap::new(), news })
    }

    /// Changes limits and time-outs, but for the number of threads and what is about sockmap. Open connections keep
    /// the time-outs with which they began.
    pub fn set_config(&self, config: RelayConfig) {
        self.context.set_config(config);
    }

    /// A question about what was counted. It can be asked from any task.
    pub fn counting(&self) -> RelayCounting {
        RelayCounting::new(&self.context)
    }

    /// Takes the sockets of the previous agent. A frontend that is served later
    /// uses its inherited sockets instead of binding new ones.
    pub fn inherit(&mut self, sockets: Vec<RelaySocket>) {
        self.context.inherited.add(sockets);
    }

    /// Whether the previous agent served all clients of `frontend` by sockets.
    pub fn inherits(&self, frontend: &Frontend) -> bool {
        self.context.inherited.role(frontend) == Some(Role::Main) || self.has(frontend)
    }

    /// Whether this plane serves all clients of `frontend`, or has connections from the time when it did.
    pub fn has(&self, frontend: &Frontend) -> bool {
        self.frontends.get(frontend).is_some_and(RunningFrontend::has_all)
    }

    /// Whether `frontend` has a listener here, which also keeps other programs off its port.
    pub fn listens(&self, frontend: &Frontend) -> bool {
        self.frontends.get(frontend).is_some_and(RunningFrontend::is_listening)
    }

    /// What becomes of the clients of `frontend` that the packet plane does not see. `None` if there are no
    /// backends, or if that plane does not serve it.
    pub fn other_clients(&self, frontend: &Frontend) -> Option<OtherClients> {
        self.frontends.get(frontend).and_then(RunningFrontend::other_clients)
    }

    /// Checks that no other program has the port of `frontend`. A plane that
    /// binds no socket would take the traffic away from that program.
    ///
    /// # Errors
    /// Another program has the port, or the kernel can't tell.
    pub async fn check_free(&self, frontend: Frontend) -> Result<(), DataPlaneError> {
        bind::bind(frontend, 1).await.map(drop)
    }

    /// Closes the inherited sockets that no frontend uses.
    pub fn forget_inherited(&mut self) {
        self.context.inherited.clear();
    }

    /// The packet plane serves `frontend` by `rule` from now on, and this one the clients whose packets no
    /// program sees: on this machine, in its Pods, and behind links without a program. Open
    /// connections of others stay here until they end.
    ///
    /// If the port can't be bound, those clients are not served ([`ProxyPlane::other_clients`] says why), until
    /// [`ProxyPlane::listen_again`] succeeds.
    pub async fn stand_beside(&mut self, frontend: Frontend, rule: &Arc<Rule>) {
        let running = self.frontends.entry(frontend);
        let new = || RunningFrontend::new(frontend, rule, Arc::clone(&self.context));
        running.or_insert_with(new).stand_beside(rule).await;
    }

    /// The frontends where this plane should listen beside the packet plane, and does not.
    pub fn not_listening(&self) -> Vec<Frontend> {
        let is_missing = |running: &RunningFrontend| {
            matches!(running.other_clients(), Some(OtherClients::NotServed { .. }))
        };
        let missing = self.frontends.iter().filter(|(_, running)| is_missing(running));
        missing.map(|(frontend, _)| *frontend).collect()
    }

    /// Those of them that may be tried again: none while there are as many such listeners as there can be.
    pub fn worth_another_try(&self) -> Vec<Frontend> {
        match self.context.limits.beside_packets.available_permits() {
            0 => Vec::new(),
            _ => self.not_listening(),
        }
    }

    /// Tries again to listen beside the packet plane.
    pub async fn listen_again(&mut self, frontend: &Frontend) {
        if let Some(running) = self.frontends.get_mut(frontend) {
            running.listen_again().await;
        }
    }

    /// The agent ends, and the packet plane goes on without it: takes nothing more beside it. Open connections
    /// have the drain time-out to end. `true` if none is left. Idempotent.
    pub fn leave_packets_alone(&mut self) -> bool {
        let beside = self.frontends.values_mut().filter(|running| running.is_beside());
        beside.fold(true, |all_gone, running| {
            running.remove();
            all_gone && running.is_gone()
        })
    }

    /// Duplicates of all sockets that take traffic, for the next agent.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<RelaySocket>> {
        let mut all = Vec::new();
        for running in self.frontends.values() {
            all.extend(running.sockets()?);
        }
        Ok(all)
    }

    /// The next agent serves all sockets: this one takes nothing more from them.
    /// Open connections go on until the drain time-out.
    pub fn hand_over(&mut self) {
        self.context.handed_over.cancel();
        self.frontends.values_mut().for_each(RunningFrontend::hand_over);
    }

    /// Removes every frontend and cuts all open connections without waiting for
    /// the drain time-out. As after a drain, `changed` is notified at the end.
    pub fn abort(&mut self) {
        for running in self.frontends.values_mut() {
            running.remove();
            running.cut();
        }
    }
}

impl Drop for ProxyPlane {
    fn drop(&mut self) {
        self.news.abort();
    }
}

/// Passes notifications on, at most one in each [`HEALTH_PACE`].
async fn pass_on(news: Arc<Notify>, to: Arc<Notify>) {
    loop {
        news.notified().await;
        to.notify_one();
        tokio::time::sleep(HEALTH_PACE).await;
    }
}

impl DataPlane for ProxyPlane {
    fn observe(&mut self) -> BTreeMap<Frontend, FrontendStatus> {
        self.frontends.retain(|_, running| !running.is_gone());
        let beside = self.frontends.values().filter(|running| running.other_clients().is_some()).count();
        let missing = self.not_listening().len();
        let totals = &self.context.counters.totals;
        totals.beside_packets.set(beside.saturating_sub(missing) as i64);
        totals.beside_packets_missing.set(missing as i64);
        let all = self.frontends.iter().filter(|(_, running)| running.has_all());
        all.map(|(frontend, running)| (*frontend, running.status())).collect()
    }

    async fn upsert(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), DataPlaneError> {
        let is_new = !self.frontends.contains_key(&frontend);
        let outcome = self
            .frontends
            .entry(frontend)
            .or_insert_with(|| RunningFrontend::new(frontend, rule, Arc::clone(&self.context)))
            .serve(rule, Role::Main)
            .await;
        if outcome.is_err() && is_new {
            self.frontends.remove(&frontend);
        }
        outcome
    }

    fn failed_backends(&mut self) -> FailedBackends {
        let of = |(frontend, running): (&Frontend, &RunningFrontend)| (*frontend, running.failed_backends());
        self.frontends.iter().map(of).filter(|(_, failed)| !failed.is_empty()).collect()
    }

    fn problems(&self) -> Vec<Problem> {
        self.context.limits.namespaces.problems()
    }

    fn remove(&mut self, frontend: &Frontend) {
        if let Some(running) = self.frontends.get_mut(frontend) {
            running.remove();
        }
    }
}
