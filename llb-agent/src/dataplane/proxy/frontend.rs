// SPDX-License-Identifier: Apache-2.0
//! One frontend as the plane runs it: opens and closes its sockets, gives it
//! its rule, and drains it. What happens on the sockets is not here.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::bind::bind;
use super::frontend_context::FrontendContext;
use super::lifecycle::{Drain, DrainLimit};
use super::listener::Listener;
use super::namespace_share::{NamespacePermit, NamespaceUse};
use super::plane_context::PlaneContext;
use super::sides::prepare;
use super::sockmap::SockmapError;
use crate::clock;
use crate::dataplane::DataPlaneError;
use crate::error_chain::ErrorChain;
use crate::model::{
    Backend, BackendFailure, Frontend, FrontendStatus, Phase, Placement, PlacementReason, PlaneKind,
    Protocol, RelayReason, Rule,
};

/// Handshakes that began before another plane took over can still complete here
/// for this long: Linux repeats a SYN-ACK after 1 s, and again after 2 s.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(4);

/// A frontend that serves or drains.
#[derive(Debug)]
pub(super) struct RunningFrontend {
    context: Arc<FrontendContext>,
    /// Absent without backends. Closed while the frontend drains.
    listener: Option<Listener>,
    /// What the listener's sockets take of the namespace's share. A frontend that was given away keeps it
    /// until it has ended or serves again.
    permit: Option<NamespacePermit>,
}

impl RunningFrontend {
    /// Not bound yet: call [`RunningFrontend::serve`] next.
    pub(super) fn new(frontend: Frontend, rule: &Arc<Rule>, plane: Arc<PlaneContext>) -> Self {
        Self { context: Arc::new(FrontendContext::new(frontend, rule, plane)), listener: None, permit: None }
    }

    /// Serves by `rule` from now on. There is a listener exactly while there are
    /// backends: without backends, the kernel refuses connections by itself, unless another
    /// program has the port.
    ///
    /// # Errors
    /// The frontend can't be bound; nothing has changed.
    pub(super) async fn serve(&mut self, rule: &Arc<Rule>) -> Result<(), DataPlaneError> {
        let must_bind = !rule.backends.is_empty() && !self.is_listening();
        if rule.backends.is_empty() && self.listener.is_none() {
            self.check_free().await?;
        }
        if (rule.backends.is_empty() || must_bind)
            && let Some(listener) = self.listener.take()
        {
            listener.close();
            listener.closed().await;
            self.permit = None;
        }
        let namespace = self.context.plane.limits.namespaces.of(&rule.service.namespace);
        let sockets = if must_bind { Some(open(&self.context, &namespace).await?) } else { None };

        if !self.context.lifecycle.resume() {
            let FrontendContext { plane, frontend, .. } = &*self.context;
            self.context = Arc::new(FrontendContext::new(*frontend, rule, Arc::clone(plane)));
        }
        self.context.set_rule(rule);
        // Another Service may have the frontend now.
        if let Some(permit) = &mut self.permit
            && !permit.is_of(&namespace)
        {
            *permit = permit.moved_to(&namespace);
        }
        if let Some((sockets, permit)) = sockets {
            let started = Listener::start(sockets, &self.context);
            let frontend = self.context.frontend;
            self.listener = Some(started.map_err(|source| DataPlaneError::Bind { frontend, source })?);
            self.permit = Some(permit);
        }
        Ok(())
    }

    async fn check_free(&self) -> Result<(), DataPlaneError> {
        let FrontendContext { plane, frontend, .. } = &*self.context;
        // The agent before this one has the port, and has passed it on.
        if plane.inherited.contains(frontend) {
            return Ok(());
        }
        bind(*frontend, 1).await.map(drop)
    }

    /// Closes the listener; open connections have the drain time-out to end. Idempotent.
    pub(super) fn remove(&mut self) {
        self.drain(self.drain_limit(), Listener::close);
    }

    /// Another plane takes new connections from now on. Open ones stay here until
    /// they end, without a limit, and handshakes that have begun can complete.
    pub(super) fn give_away(&mut self) {
        let listener = self.listener.clone().filter(|_| self.context.frontend.protocol == Protocol::Tcp);
        let Some(listener) = listener else { return self.remove() };
        let context = Arc::clone(&self.context);
        self.drain(DrainLimit::Unlimited, |_| {
            tokio::spawn(async move {
                tokio::time::sleep(HANDSHAKE_GRACE).await;
                context.lifecycle.unless_serving(|| listener.close());
            });
        });
    }

    /// As [`RunningFrontend::remove`], but the next agent goes on to serve the sockets.
    pub(super) fn hand_over(&mut self) {
        self.drain(self.drain_limit(), Listener::leave);
    }

    /// Duplicates of the sockets, for the next agent.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.listener.as_ref().filter(|listener| listener.is_open()).map_or(Ok(Vec::new()), Listener::sockets)
    }

    /// Whether it was removed and its last connection has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.context.lifecycle.has_ended() && self.context.connections.count() == 0
    }

    /// The rule and the phase. A frontend whose listener has died counts as
    /// draining: it takes no new connections until it serves again.
    pub(super) fn status(&self) -> FrontendStatus {
        let rule = Arc::clone(&self.context.active_rule.load().rule);
        let takes_traffic = rule.backends.is_empty() || self.is_listening();
        let is_serving = self.context.lifecycle.is_serving() && takes_traffic;
        let phase = if is_serving { Phase::Serving } else { Phase::Draining };
        FrontendStatus { placement: self.placement(), ..FrontendStatus::relayed(rule, phase) }
    }

    /// The backends that failed and have not answered since, while it serves.
    pub(super) fn failed_backends(&self) -> BTreeMap<Backend, BackendFailure> {
        if self.context.lifecycle.is_serving() { self.context.selection.failing() } else { BTreeMap::new() }
    }

    fn placement(&self) -> Placement {
        let relayed =
            |plane, reason| Placement { plane, mode: None, why: Some(PlacementReason::Relay(reason)) };
        match (self.context.frontend.protocol, &self.context.plane.sockmap) {
            (_, Err(SockmapError::NotWanted)) => Placement::default(),
            (Protocol::Tcp, Ok(_)) => relayed(PlaneKind::Sockmap, RelayReason::Sockmap),
            (Protocol::Tcp, Err(error)) => {
                relayed(PlaneKind::Userspace, RelayReason::NoSockmap { error: ErrorChain(error).to_string() })
            }
            (Protocol::Udp, _) => relayed(PlaneKind::Userspace, RelayReason::SockmapHasNoUdp),
        }
    }

    /// Resets all open connections.
    pub(super) fn cut(&self) {
        self.context.connections.cut();
    }

    fn is_listening(&self) -> bool {
        self.listener.as_ref().is_some_and(Listener::is_open)
    }

    fn drain_limit(&self) -> DrainLimit {
        DrainLimit::Until(clock::now() + self.context.plane.config.drain_timeout)
    }

    fn drain(&mut self, limit: DrainLimit, close: impl FnOnce(&Listener)) {
        let Some(drain) = self.context.lifecycle.start_draining(limit) else { return };
        if let Some(listener) = &self.listener {
            close(listener);
        }
        // A listener that is given away stays open for a moment, and may serve again.
        if !self.is_listening() {
            self.permit = None;
        }
        tracing::info!(
            frontend = %self.context.frontend,
            connections = self.context.connections.count(),
            "draining"
        );
        let closed = self.listener.as_ref().map(Listener::closed);
        tokio::spawn(run_drain(Arc::clone(&self.context), closed, drain));
    }
}

/// The sockets of the previous agent, or new ones, with their part of the namespace's share.
async fn open(
    context: &FrontendContext,
    namespace: &Arc<NamespaceUse>,
) -> Result<(Vec<Socket>, NamespacePermit), DataPlaneError> {
    let FrontendContext { plane, frontend, .. } = context;
    let frontend = *frontend;
    if let Some(sockets) = plane.inherited.take(&frontend) {
        // Accepted connections inherit the options of their listener, and an
        // older agent may have set others.
        if frontend.protocol == Protocol::Tcp {
            let prepared = sockets.iter().try_for_each(prepare);
            prepared.map_err(|source| DataPlaneError::Bind { frontend, source })?;
        }
        let permit = namespace.open_listener(sockets.len());
        return Ok((sockets, permit));
    }
    let count = plane.workers.handles().len();
    let permit = namespace
        .listener(count)
        .ok_or_else(|| DataPlaneError::NamespaceFull { frontend, most: namespace.most_descriptors() })?;
    Ok((bind(frontend, count).await?, permit))
}

/// Waits until the listener is closed and no connection is left, or until the
/// drain's limit; then ends the frontend, unless the drain was called off.
async fn run_drain(context: Arc<FrontendContext>, closed: Option<impl Future<Output = ()>>, drain: Drain) {
    let none_open = async {
        if let Some(closed) = closed {
            closed.await;
        }
        context.connections.wait_until_none().await;
    };
    let is_in_time = match drain.limit {
        DrainLimit::Until(deadline) => tokio::time::timeout_at(deadline, none_open).await.is_ok(),
        DrainLimit::Unlimited => {
            none_open.await;
            true
        }
    };
    if !context.lifecycle.end(drain) {
        return;
    }
    let connections = context.connections.count();
    if is_in_time {
        tracing::info!(frontend = %context.frontend, "drained");
    } else {
        tracing::warn!(frontend = %context.frontend, connections, "drain time-out: open connections are reset");
    }
    context.connections.cut();
    context.connections.wait_until_none().await;
    context.plane.changed.notify_one();
}
