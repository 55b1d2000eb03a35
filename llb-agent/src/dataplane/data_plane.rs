// SPDX-License-Identifier: Apache-2.0
//! What the reconcile loop asks of a data plane, and how a plane fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use crate::model::{FailedBackends, Frontend, FrontendStatus, PlanesState, Problem, ProblemReason, Rule};

/// A mechanism that forwards.
#[expect(async_fn_in_trait, reason = "called from one task of this crate, never spawned")]
pub trait DataPlane {
    /// Finishes moves of frontends that have become possible since the last call, as when the
    /// relay's last old connection has ended. The loop calls it before each
    /// [`observe`](DataPlane::observe).
    fn advance(&mut self) {}

    /// All frontends that the plane has, draining ones included. It changes nothing that
    /// packets or clients can see.
    fn observe(&mut self) -> BTreeMap<Frontend, FrontendStatus>;

    /// Makes `frontend` serve by `rule`; idempotent. A frontend that serves already keeps its
    /// listener and its connections, and uses the new rule for new ones.
    ///
    /// # Errors
    /// The frontend can't take traffic. Other frontends are not affected.
    async fn upsert(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), DataPlaneError>;

    /// Takes no new traffic for `frontend` from now on; idempotent. The frontend is
    /// [`Phase::Draining`](crate::model::Phase) until its last connection has ended or the
    /// drain time-out has passed. Then it is gone.
    fn remove(&mut self, frontend: &Frontend);

    /// Listens for clients that the packet plane does not see, where that could not be done before, and keeps
    /// other programs from binding the ports of these frontends, which are on the machine's own
    /// addresses. Called again and again; what fails is tried again then.
    async fn keep_ports(&mut self, _own: &BTreeSet<Frontend>) {}

    /// The agent ends. What the packet plane serves goes on, so no connection is accepted beside it any
    /// more. `true` if none is left. Called again and again.
    fn leave_packets_alone(&mut self) -> bool {
        true
    }

    /// The backends that were found dead, of all frontends that serve. Whenever a backend is
    /// found dead or answers again, the plane wakes the loop up, but at most once a second.
    fn failed_backends(&mut self) -> FailedBackends {
        FailedBackends::new()
    }

    /// The link devices on which nothing is forwarded yet. On such a link the kernel itself would answer a packet to a VIP,
    /// by a reset if the packet belongs to an open connection.
    fn unready_links(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// What is wrong now, besides what [`DataPlane::upsert`] has returned.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The state of the planes themselves.
    fn describe(&self) -> PlanesState {
        PlanesState::default()
    }
}

/// A frontend can't be served.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// Another program listens there.
    #[error("{frontend} is in use by another program{}; stop it or move it to another address (see `ss -lntup`)", owner(.program.as_ref()))]
    PortInUse {
        /// The frontend.
        frontend: Frontend,
        /// The program, as `name (pid 12)` or `one of user 33`, if that can be told.
        program: Option<String>,
    },
    /// Ports below 1024 need a privilege.
    #[error("no permission to bind {frontend}: run as root or with CAP_NET_BIND_SERVICE")]
    NotPermitted {
        /// The frontend.
        frontend: Frontend,
    },
    /// The namespace has used up its share.
    #[error(
        "{frontend} cannot listen: the relay has as many of the {most} file descriptors open that the Services of one namespace \
         can have (--namespace-share); delete a Service, end connections, or let the operator raise the share"
    )]
    NamespaceFull {
        /// The frontend.
        frontend: Frontend,
        /// How many the namespace can have.
        most: usize,
    },
    /// Too many listeners are open beside the packet plane.
    #[error(
        "{frontend} cannot listen: the relay has {most} listeners beside the packet plane, a quarter of the file descriptors \
         that this process may open (LimitNOFILE=, ulimit -n)"
    )]
    TooManyListeners {
        /// The frontend.
        frontend: Frontend,
        /// How many there can be.
        most: usize,
    },
    /// Any other error of the kernel.
    #[error("cannot bind {frontend}")]
    Bind {
        /// The frontend.
        frontend: Frontend,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

impl DataPlaneError {
    /// The reason of the problem that is reported.
    pub(crate) fn reason(&self) -> ProblemReason {
        match self {
            Self::NamespaceFull { .. } => ProblemReason::NamespaceLimit,
            Self::PortInUse { .. }
            | Self::NotPermitted { .. }
            | Self::TooManyListeners { .. }
            | Self::Bind { .. } => ProblemReason::ActionFailed,
        }
    }
}

fn owner(program: Option<&String>) -> String {
    program.map(|name| format!(": {name}")).unwrap_or_default()
}
