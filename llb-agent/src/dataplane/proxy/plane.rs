// SPDX-License-Identifier: Apache-2.0
//! The proxy plane as the rest of the agent sees it: all of its frontends, and
//! the sockets that pass from one agent to the next.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::bind;
use super::frontend::RunningFrontend;
use super::plane_context::PlaneContext;
use crate::config::RelayConfig;
use crate::dataplane::{DataPlane, DataPlaneError};
use crate::model::{FailedBackends, Frontend, FrontendStatus, Problem, Rule};

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

    /// Takes the sockets of the previous agent. A frontend that is served later
    /// uses its inherited sockets instead of binding new ones.
    pub fn inherit(&mut self, sockets: Vec<(Frontend, OwnedFd)>) {
        self.context.inherited.add(sockets);
    }

    /// Whether the previous agent served `frontend` by sockets.
    pub fn inherits(&self, frontend: &Frontend) -> bool {
        self.context.inherited.contains(frontend) || self.has(frontend)
    }

    /// Whether `frontend` serves or drains here.
    pub fn has(&self, frontend: &Frontend) -> bool {
        self.frontends.contains_key(frontend)
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

    /// Another plane takes new connections of `frontend` from now on. Open ones
    /// stay here until they end.
    pub fn give_away(&mut self, frontend: &Frontend) {
        if let Some(running) = self.frontends.get_mut(frontend) {
            running.give_away();
        }
    }

    /// Duplicates of all sockets that take traffic, for the next agent.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<(Frontend, OwnedFd)>> {
        let mut all = Vec::new();
        for (frontend, running) in &self.frontends {
            all.extend(running.sockets()?.into_iter().map(|socket| (*frontend, socket)));
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
        self.frontends.iter().map(|(frontend, running)| (*frontend, running.status())).collect()
    }

    async fn upsert(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), DataPlaneError> {
        let is_new = !self.frontends.contains_key(&frontend);
        let outcome = self
            .frontends
            .entry(frontend)
            .or_insert_with(|| RunningFrontend::new(frontend, rule, Arc::clone(&self.context)))
            .serve(rule)
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
