// SPDX-License-Identifier: Apache-2.0
//! Active health checks: asks backends again and again whether they work. It decides nothing: the loop says what
//! to ask, and the verdicts are an input of the desired state (`desired/health.rs`).
//!
//! ```text
//!   reconcile --checks of the desired state--> task.rs --at most MOST_AT_ONCE--> probe.rs  connects, asks (grpc.rs: by gRPC)
//!       ^                                        |  history.rs: which result changes the verdict
//!       '-------- verdicts, a watch channel -----'
//! ```
//!
//! Invariants: a check is asked at most once at a time; a check that nobody wants any more is forgotten; nothing
//! here delays the loop.

mod exchange;
mod grpc;
mod history;
mod metrics;
mod probe;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::config::HealthConfig;
use crate::model::{Check, Verdicts};
use metrics::HealthMetrics;
use task::Checker;

/// What the loop has of the checks. The task ends when this is dropped.
#[derive(Debug)]
pub struct Health {
    wanted: watch::Sender<Arc<BTreeSet<Check>>>,
    verdicts: watch::Receiver<Arc<Verdicts>>,
    /// `None`: nothing is ever checked.
    config: Option<watch::Sender<HealthConfig>>,
}

impl Default for Health {
    /// Nothing is ever checked.
    fn default() -> Self {
        Self {
            wanted: watch::Sender::default(),
            verdicts: watch::Sender::default().subscribe(),
            config: None,
        }
    }
}

impl Health {
    /// Starts the task that makes the checks.
    pub fn start(config: HealthConfig, registry: &mut Registry) -> Self {
        let (wanted, is_wanted) = watch::channel(Arc::default());
        let (out, verdicts) = watch::channel(Arc::default());
        let (config, current) = watch::channel(config);
        let checker = Checker::new(current, is_wanted, out, HealthMetrics::register(registry));
        tokio::spawn(checker.run());
        Self { wanted, verdicts, config: Some(config) }
    }

    /// Changes how checks are made: each one from its next time on.
    pub fn set_config(&self, config: HealthConfig) {
        if let Some(current) = &self.config {
            current.send_replace(config);
        }
    }

    /// The present verdicts.
    pub fn verdicts(&mut self) -> Arc<Verdicts> {
        self.verdicts.borrow_and_update().clone()
    }

    /// Resolves when verdicts have changed since [`Health::verdicts`].
    pub async fn changed(&mut self) {
        if self.verdicts.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// From now on these are asked, and no others.
    pub fn ask(&self, checks: &BTreeSet<Check>) {
        self.wanted.send_if_modified(|wanted| {
            let differs = **wanted != *checks;
            if differs {
                *wanted = Arc::new(checks.clone());
            }
            differs
        });
    }
}
