// SPDX-License-Identifier: Apache-2.0
//! The seam to whatever moves packets or bytes. A plane receives finished
//! rules and decides nothing: which frontend, which backends and when are
//! settled before it is called.
//!
//! Invariant: a plane knows neither Kubernetes nor addresses on links.

pub mod fake;
mod ladder;
pub mod packet;
mod planes;
pub mod proxy;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::model::{BackendStatus, Frontend, FrontendStatus, PlanesState, Rule};
pub use planes::Planes;

/// A mechanism that forwards.
#[expect(async_fn_in_trait, reason = "called from one task of this crate, never spawned")]
pub trait DataPlane {
    /// Every frontend that the plane has, draining ones included.
    fn observe(&mut self) -> BTreeMap<Frontend, FrontendStatus>;

    /// Makes `frontend` serve by `rule`; idempotent. A frontend that serves
    /// already keeps its listener and its connections and takes the new rule
    /// for new ones.
    ///
    /// # Errors
    /// The frontend can't take traffic; nothing else is touched.
    async fn upsert(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), DataPlaneError>;

    /// Takes no new traffic for `frontend` from now on; idempotent. It is
    /// [`Phase::Draining`](crate::model::Phase) until its last connection has
    /// ended or the drain time-out has passed, then it is gone.
    fn remove(&mut self, frontend: &Frontend);

    /// What there is to say about the planes.
    fn describe(&self) -> PlanesState {
        PlanesState::default()
    }
}

/// What the planes know of backends, whenever somebody asks.
#[derive(Clone, Default)]
pub struct BackendStates(Option<Arc<AskBackends>>);

/// Gives the backends of a frontend.
type AskBackends = dyn Fn(&Frontend) -> Vec<BackendStatus> + Send + Sync;

impl BackendStates {
    /// Asked by `ask`.
    pub fn new(ask: impl Fn(&Frontend) -> Vec<BackendStatus> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }

    /// The backends of a frontend; empty where its plane does not tell.
    pub fn of(&self, frontend: &Frontend) -> Vec<BackendStatus> {
        self.0.as_ref().map(|ask| ask(frontend)).unwrap_or_default()
    }
}

/// A frontend could not be served.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// Somebody else listens there.
    #[error("{frontend} is in use by another program{}; stop it or move it to another address (see `ss -lntup`)", owner(.program.as_ref()))]
    PortInUse {
        /// Where.
        frontend: Frontend,
        /// Who, as `name (pid 12)` or `one of user 33`, where that can be told.
        program: Option<String>,
    },
    /// A port below 1024 without the right to it.
    #[error("no permission to bind {frontend}: run as root or with CAP_NET_BIND_SERVICE")]
    NotPermitted {
        /// Where.
        frontend: Frontend,
    },
    /// Anything else that the kernel says.
    #[error("cannot bind {frontend}")]
    Bind {
        /// Where.
        frontend: Frontend,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
}

fn owner(program: Option<&String>) -> String {
    program.map(|name| format!(": {name}")).unwrap_or_default()
}
