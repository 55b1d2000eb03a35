// SPDX-License-Identifier: Apache-2.0
//! The proxy plane: accepted connections and UDP sessions, relayed in user
//! space. It needs nothing from the kernel but sockets, so it works everywhere.
//!
//! ```text
//!   ProxyPlane --- one RunningFrontend each: life, rule, sockets    frontend.rs, bind.rs
//!                    |
//!                    |-- on each worker, its own socket              worker.rs, listener.rs
//!                    |    |-- TCP: accept loop
//!                    |    |     `-- one task for each connection    tcp.rs
//!                    |    |           |-- may it come               service_limit.rs, model/terms.rs
//!                    |    |           |-- chooses a backend          affinity.rs, selection.rs
//!                    |    |           `-- header, then bytes         proxy_protocol.rs, relay.rs
//!                    |    |                  |-- copied or spliced   direction.rs, pipe.rs
//!                    |    |                  `-- or by the kernel    sockmap/
//!                    |    `-- UDP: loop that owns its sessions      udp.rs, offload.rs
//!                    |          `-- one task for each session's replies
//!                    |-- open connections, to count and to cut      connections.rs
//!                    `-- metrics: totals; by frontend and backend    metrics.rs, traffic.rs
//! ```
//!
//! | task | one for each | input | ends |
//! |---|---|---|---|
//! | accept loop | worker and TCP frontend with backends | its listener | listener closed or dead |
//! | connection | accepted connection | both sockets | both directions done, a side lost, silent for too long, or cut |
//! | UDP loop | worker and UDP frontend with backends | its socket | closed |
//! | replies | UDP session | the session's socket | idle, failed, backend gone, or closed |
//! | drain | `remove` | number of open connections | none left, or time-out |
//!
//! A successor takes over the sockets themselves (`handover`), so nothing that
//! waits in them is lost.
//!
//! Draining concerns TCP. A UDP frontend closes at once, since UDP has no end
//! that could be waited for.
//!
//! Invariants: a slow or dead backend or client delays nobody else. A rule
//! never touches a connection that has its backend. No torn stream looks
//! complete. Nothing moves from worker to worker. There are no queues between tasks; everything else has a limit in
//! [`RelayConfig`] or a constant.

mod affinity;
mod bind;
mod connections;
mod direction;
mod exhaustion;
mod frontend;
mod latency;
mod listener;
mod metrics;
mod offload;
mod owner;
mod pipe;
mod proxy_protocol;
mod relay;
mod selection;
mod service_limit;
mod sockmap;
mod tcp;
#[cfg(test)]
mod tests;
mod traffic;
mod udp;
mod vigil;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use self::affinity::Affinity;
use self::frontend::{PlaneContext, RunningFrontend};
use self::metrics::Metrics;
use self::offload::Offload;
use self::service_limit::ServiceCounts;
use self::sockmap::{Sockmap, SockmapError};
use self::traffic::Traffic;
use self::worker::Workers;
use super::{DataPlane, DataPlaneError};
use crate::config::RelayConfig;
use crate::model::{Frontend, FrontendStatus, Rule};

/// Serves frontends by accepting and connecting. Must live in a tokio runtime.
#[derive(Debug)]
pub struct ProxyPlane {
    context: Arc<PlaneContext>,
    frontends: BTreeMap<Frontend, RunningFrontend>,
}

impl ProxyPlane {
    /// Without frontends. `changed` is notified whenever
    /// [`observe`](DataPlane::observe) would give a new answer without a call:
    /// a drain has ended, or a listener has died (its frontend is then
    /// reported as draining, and `upsert` repairs it).
    ///
    /// # Errors
    /// The threads of the plane can't be started, or have no descriptors.
    pub fn new(config: RelayConfig, registry: &mut Registry, changed: Arc<Notify>) -> io::Result<Self> {
        let permits = |limit: NonZeroUsize| Arc::new(Semaphore::new(limit.get().min(Semaphore::MAX_PERMITS)));
        let context = PlaneContext {
            metrics: Metrics::register(registry),
            traffic: Traffic::register(registry),
            offload: Offload::probe()?,
            connection_permits: permits(config.max_connections),
            session_permits: permits(config.max_udp_sessions),
            service_counts: ServiceCounts::default(),
            affinity: Affinity::default(),
            changed,
            inherited: Mutex::default(),
            handed_over: CancellationToken::new(),
            workers: Workers::start(config.workers)?,
            sockmap: start_sockmap(&config, registry),
            config,
        };
        Ok(Self { context: Arc::new(context), frontends: BTreeMap::new() })
    }

    /// Takes the sockets of a predecessor: a frontend that is served uses its
    /// own instead of binding new ones.
    pub fn inherit(&mut self, sockets: Vec<(Frontend, OwnedFd)>) {
        let mut inherited = self.context.inherited.lock().unwrap_or_else(PoisonError::into_inner);
        for (frontend, socket) in sockets {
            inherited.entry(frontend).or_default().push(socket.into());
        }
    }

    /// Whether a predecessor gave sockets for `frontend`.
    pub fn inherits(&self, frontend: &Frontend) -> bool {
        let inherited = self.context.inherited.lock().unwrap_or_else(PoisonError::into_inner);
        inherited.contains_key(frontend) || self.has(frontend)
    }

    /// Whether `frontend` serves or drains here.
    pub fn has(&self, frontend: &Frontend) -> bool {
        self.frontends.contains_key(frontend)
    }
    /// Finds out whether another program has the port of `frontend`, which a
    /// plane that binds nothing would take away from it.
    ///
    /// # Errors
    /// One has; or the kernel does not say.
    pub async fn check_free(&self, frontend: Frontend) -> Result<(), DataPlaneError> {
        bind::bind(frontend, 1).await.map(drop)
    }

    /// Closes the inherited sockets that no frontend has wanted.
    pub fn forget_inherited(&mut self) {
        self.context.inherited.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Another plane takes what begins from now on; what is open goes on until it ends.
    pub fn give_away(&mut self, frontend: &Frontend) {
        if let Some(running) = self.frontends.get_mut(frontend) {
            running.give_away();
        }
    }

    /// All sockets that take traffic, once more, for a successor.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn sockets(&self) -> io::Result<Vec<(Frontend, OwnedFd)>> {
        let mut all = Vec::new();
        for (frontend, running) in &self.frontends {
            all.extend(running.sockets()?.into_iter().map(|socket| (*frontend, socket)));
        }
        Ok(all)
    }

    /// A successor serves all sockets: takes nothing more from them, and lets
    /// open connections go on until the drain time-out.
    pub fn hand_over(&mut self) {
        self.context.handed_over.cancel();
        self.frontends.values_mut().for_each(RunningFrontend::hand_over);
    }

    /// Removes every frontend and cuts what is open, without waiting for the
    /// drain time-out. As after a drain, `changed` tells when all has ended.
    pub fn abort(&mut self) {
        for running in self.frontends.values_mut() {
            running.remove();
            running.cut();
        }
    }
}

/// Without it all bytes are moved in user space, so nothing fails.
fn start_sockmap(config: &RelayConfig, registry: &mut Registry) -> Result<Sockmap, SockmapError> {
    let wanted = config.sockmap.ok_or(SockmapError::NotWanted)?;
    let sockmap = Sockmap::start(wanted, registry);
    match &sockmap {
        Ok(_) => tracing::info!(
            after_reads = wanted.after_reads,
            "the kernel moves the bytes of connections (sockmap)"
        ),
        Err(error) => {
            let error = with_causes(error);
            tracing::warn!(error, "no sockmap; bytes are moved in user space");
        }
    }
    sockmap
}

/// An error with all that led to it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
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

    fn remove(&mut self, frontend: &Frontend) {
        if let Some(running) = self.frontends.get_mut(frontend) {
            running.remove();
        }
    }
}
