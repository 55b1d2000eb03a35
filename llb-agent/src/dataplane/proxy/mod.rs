//! The proxy plane: accepted connections and UDP sessions, relayed in user
//! space. It needs nothing from the kernel but sockets, so it works everywhere.
//!
//! ```text
//!   ProxyPlane --- one RunningFrontend each: life, rule, socket     frontend.rs, bind.rs
//!                    |
//!                    |-- TCP: accept loop                           listener.rs
//!                    |      `-- one task for each connection        tcp.rs
//!                    |            |-- may it come                  service_limit.rs, model/terms.rs
//!                    |            |-- chooses a backend             affinity.rs, selection.rs
//!                    |            `-- header, then bytes            proxy_protocol.rs, relay.rs
//!                    `-- UDP: loop that owns the sessions           udp.rs
//!                           `-- one task for each session's replies
//! ```
//!
//! | task | one for each | input | ends |
//! |---|---|---|---|
//! | accept loop | TCP frontend with backends | its listener | listener closed or dead |
//! | connection | accepted connection | both sockets | both directions done, a side lost, or cut |
//! | UDP loop | UDP frontend with backends | its socket | closed |
//! | replies | UDP session | the session's socket | idle, failed, backend gone, or closed |
//! | drain | `remove` | number of open connections | none left, or time-out |
//!
//! Draining concerns TCP. A UDP frontend closes at once, since UDP has no end
//! that could be waited for.
//!
//! Invariants: a slow or dead backend or client delays nobody else. A rule
//! never touches a connection that has its backend. No torn stream looks
//! complete. There are no queues between tasks; everything else has a limit in
//! [`RelayConfig`] or a constant.

mod affinity;
mod bind;
mod exhaustion;
mod frontend;
mod listener;
mod metrics;
mod owner;
mod proxy_protocol;
mod relay;
mod selection;
mod service_limit;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::{Notify, Semaphore};

use self::affinity::Affinity;
use self::frontend::{PlaneContext, RunningFrontend};
use self::metrics::Metrics;
use self::service_limit::ServiceCounts;
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
    pub fn new(config: RelayConfig, registry: &mut Registry, changed: Arc<Notify>) -> Self {
        let permits = |limit: NonZeroUsize| Arc::new(Semaphore::new(limit.get().min(Semaphore::MAX_PERMITS)));
        let context = PlaneContext {
            metrics: Metrics::register(registry),
            connection_permits: permits(config.max_connections),
            session_permits: permits(config.max_udp_sessions),
            service_counts: ServiceCounts::default(),
            affinity: Affinity::default(),
            changed,
            config,
        };
        Self { context: Arc::new(context), frontends: BTreeMap::new() }
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
