//! The proxy plane: accepted connections and UDP sessions, relayed in user
//! space. It needs nothing from the kernel but sockets, so it works everywhere.
//!
//! ```text
//!   ProxyPlane --- one RunningFrontend each: life, rule, socket     frontend.rs, bind.rs
//!                    |
//!                    |-- TCP: accept loop                           listener.rs
//!                    |      `-- one task for each connection        tcp.rs
//!                    |            `-- chooses a backend, then bytes selection.rs, relay.rs
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

mod bind;
mod exhaustion;
mod frontend;
mod listener;
mod metrics;
mod owner;
mod relay;
mod selection;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::{Notify, Semaphore};

use self::frontend::{PlaneContext, RunningFrontend};
use self::metrics::Metrics;
use super::{DataPlane, DataPlaneError};
use crate::model::{Frontend, FrontendStatus, Rule};

/// The limits of the plane. They hold for all frontends together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// For one attempt to connect to one backend.
    pub connect_timeout: Duration,
    /// How long connections of a removed frontend may go on.
    pub drain_timeout: Duration,
    /// Without a datagram in either direction for so long, a UDP session ends.
    pub udp_idle_timeout: Duration,
    /// TCP connections open at one time; each takes two file descriptors.
    pub max_connections: NonZeroUsize,
    /// UDP sessions open at one time; each takes one file descriptor and one
    /// local port.
    pub max_udp_sessions: NonZeroUsize,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            // Room for one lost SYN, which is repeated after 1 s (RFC 6298), and still
            // time for a second backend before a client loses patience.
            connect_timeout: Duration::from_secs(3),
            // Kubernetes kills a pod 30 s after SIGTERM; be done before.
            drain_timeout: Duration::from_secs(25),
            // Linux forgets a one-sided UDP flow after 30 s and a two-sided one after
            // 120 s; one value between them, since a session can't tell which it is.
            udp_idle_timeout: Duration::from_secs(60),
            // With the sessions 49152 file descriptors, below the usual 65536; at most
            // 512 MiB of buffers if every connection is stuck in both directions.
            max_connections: const { NonZeroUsize::new(16_384).expect("not 0") },
            // More than half of the 28232 local ports (`net.ipv4.ip_local_port_range`)
            // would leave too few for everybody else.
            max_udp_sessions: const { NonZeroUsize::new(16_384).expect("not 0") },
        }
    }
}

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
            changed,
            config,
        };
        Self { context: Arc::new(context), frontends: BTreeMap::new() }
    }

    /// Removes every frontend and returns when the last connection has ended,
    /// after the drain time-out at the latest.
    pub async fn shutdown(&mut self) {
        for running in self.frontends.values_mut() {
            running.remove();
        }
        for running in self.frontends.values_mut() {
            running.drained().await;
        }
        self.frontends.clear();
    }
}

impl DataPlane for ProxyPlane {
    fn observe(&self) -> BTreeMap<Frontend, FrontendStatus> {
        self.frontends
            .iter()
            .filter(|(_, running)| !running.is_gone())
            .map(|(frontend, running)| (*frontend, running.status()))
            .collect()
    }

    async fn upsert(&mut self, frontend: Frontend, rule: &Rule) -> Result<(), DataPlaneError> {
        self.frontends.retain(|_, running| !running.is_gone());
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
