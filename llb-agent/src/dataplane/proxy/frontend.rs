// SPDX-License-Identifier: Apache-2.0
//! One frontend as the plane runs it: opens and closes its sockets, gives it
//! its rule, and drains it. What happens on the sockets is not here.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::sync::OwnedSemaphorePermit;

use super::bind::{bind, bind_more, bind_one};
use super::frontend_context::FrontendContext;
use super::inherited::RelaySocket;
use super::lifecycle::Drain;
use super::listener::Listener;
use super::namespace_share::{NamespacePermit, NamespaceUse};
use super::plane_context::{PlaneContext, most_beside_packets};
use super::role::Role;
use super::sides::prepare;
use super::sockmap::SockmapError;
use crate::clock;
use crate::dataplane::DataPlaneError;
use crate::error_chain::ErrorChain;
use crate::model::{
    Backend, BackendFailure, Frontend, FrontendStatus, OtherClients, Phase, Placement, PlacementReason,
    PlaneKind, Protocol, RelayReason, Rule,
};

/// Handshakes that began before another plane took over still count as the relay's
/// for this long: Linux repeats a SYN-ACK after 1 s, and again after 2 s.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(4);

/// A frontend that serves or drains.
#[derive(Debug)]
pub(super) struct RunningFrontend {
    context: Arc<FrontendContext>,
    role: Role,
    /// Absent without backends. Closed while the frontend drains.
    listener: Option<Listener>,
    /// What the listener's sockets take of limits.
    permit: Option<ListenerPermit>,
    /// Why there is no listener beside the packet plane.
    failure: Option<DataPlaneError>,
}

/// What a listener takes of limits, until it is dropped.
#[derive(Debug)]
struct ListenerPermit {
    of_namespace: Vec<NamespacePermit>,
    /// Set if it was opened beside the packet plane.
    _beside_packets: Option<OwnedSemaphorePermit>,
}

impl RunningFrontend {
    /// Not bound yet: call [`RunningFrontend::serve`] next.
    pub(super) fn new(frontend: Frontend, rule: &Arc<Rule>, plane: Arc<PlaneContext>) -> Self {
        let context = Arc::new(FrontendContext::new(frontend, rule, plane));
        Self { context, role: Role::Beside, listener: None, permit: None, failure: None }
    }

    /// Serves by `rule` from now on, in `role`. There is a listener exactly while there are
    /// backends: without backends, the kernel refuses connections by itself, unless another
    /// program has the port. If the packet plane takes over what this one served alone, connections
    /// that are open, and handshakes that have begun, are the old ones.
    ///
    /// # Errors
    /// The frontend can't be bound. In role main nothing has changed; beside the packet plane it
    /// follows the rule without a listener.
    pub(super) async fn serve(&mut self, rule: &Arc<Rule>, role: Role) -> Result<(), DataPlaneError> {
        let had_all = self.is_all_or_ends();
        let must_bind = !rule.backends.is_empty() && !self.is_listening();
        // The packet plane has looked already.
        if rule.backends.is_empty() && self.listener.is_none() && role == Role::Main {
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
        let (sockets, mut result) = match must_bind {
            true => match open(&self.context, &namespace, role).await {
                Ok(sockets) => (Some(sockets), Ok(())),
                Err(error) if role == Role::Beside => (None, Err(error)),
                Err(error) => return Err(error),
            },
            false => (None, Ok(())),
        };
        self.follow(rule, &namespace);
        if let Some((sockets, permit)) = sockets {
            match Listener::start(sockets, &self.context) {
                Ok(started) => (self.listener, self.permit) = (Some(started), Some(permit)),
                Err(source) => {
                    result = Err(DataPlaneError::Bind { frontend: self.context.frontend, source });
                }
            }
        }
        self.role = role;
        match role {
            Role::Main => {
                self.context.connections.call_off_move();
                self.use_all_workers(&namespace);
            }
            Role::Beside if had_all => self.move_to_packets(),
            Role::Beside => {}
        }
        result
    }

    /// New connections follow `rule` from now on.
    fn follow(&mut self, rule: &Arc<Rule>, namespace: &Arc<NamespaceUse>) {
        if !self.context.lifecycle.resume() {
            let FrontendContext { plane, frontend, .. } = &*self.context;
            self.context = Arc::new(FrontendContext::new(*frontend, rule, Arc::clone(plane)));
        }
        self.context.set_rule(rule);
        // Another Service may have the frontend now.
        for permit in self.permit.iter_mut().flat_map(|permit| &mut permit.of_namespace) {
            if !permit.is_of(namespace) {
                *permit = permit.moved_to(namespace);
            }
        }
    }

    /// Whether all clients, or connections from the time when it had all, are the relay's. Otherwise the
    /// packet plane takes every packet that its programs see.
    pub(super) fn has_all(&self) -> bool {
        self.is_all_or_ends() || (!self.is_gone() && self.context.connections.has_old())
    }

    /// Whether any of the connections that are open now may be one whose packets a program could take.
    fn is_all_or_ends(&self) -> bool {
        let ends = !self.context.lifecycle.is_serving();
        !self.is_gone() && (self.role == Role::Main || ends)
    }

    /// Whether it stands beside the packet plane.
    pub(super) fn is_beside(&self) -> bool {
        self.role == Role::Beside
    }

    /// Whether there is a listener.
    pub(super) fn is_listening(&self) -> bool {
        self.listener.as_ref().is_some_and(Listener::is_open)
    }

    /// What becomes of the clients whose packets no program sees; `None` if all are served here, or if there are
    /// no backends, so that all are refused.
    pub(super) fn other_clients(&self) -> Option<OtherClients> {
        let is_beside = self.role == Role::Beside && self.context.lifecycle.is_serving();
        let has_backends = !self.context.active_rule.load().rule.backends.is_empty();
        if !is_beside || !has_backends {
            return None;
        }
        let why = match &self.failure {
            _ if self.is_listening() => return Some(OtherClients::Relayed),
            Some(error) => ErrorChain(error).to_string(),
            None => "the listener has died".to_owned(),
        };
        Some(OtherClients::NotServed { why })
    }

    /// Tries again to listen beside the packet plane.
    pub(super) async fn listen_again(&mut self) {
        let rule = Arc::clone(&self.context.active_rule.load().rule);
        self.stand_beside(&rule).await;
    }

    /// The packet plane serves by `rule` from now on, and this plane the clients that no program sees.
    pub(super) async fn stand_beside(&mut self, rule: &Arc<Rule>) {
        let failure = self.serve(rule, Role::Beside).await.err();
        if let Some(error) = failure.as_ref().filter(|_| self.failure.is_none()) {
            let (frontend, error) = (self.context.frontend, ErrorChain(error));
            tracing::warn!(%frontend, %error, "clients on this machine and behind its other links are not served");
        }
        self.failure = failure;
    }

    /// Whether it has the listener that its rule asks for.
    fn is_complete(&self) -> bool {
        self.context.active_rule.load().rule.backends.is_empty() || self.is_listening()
    }

    /// Opens a socket for each worker that has none. Those that can't be opened are missing: the
    /// others serve.
    fn use_all_workers(&mut self, namespace: &Arc<NamespaceUse>) {
        let Self { context, listener: Some(listener), permit: Some(permit), .. } = self else { return };
        let missing = context.plane.workers.handles().len().saturating_sub(listener.count());
        if missing == 0 || !listener.is_open() {
            return;
        }
        let Some(more) = namespace.listener(missing) else { return };
        let added = bind_more(&context.frontend, missing).and_then(|sockets| listener.add(sockets, context));
        match added {
            Ok(()) => permit.of_namespace.push(more),
            Err(error) => {
                tracing::warn!(frontend = %context.frontend, %error, "cannot listen on all workers");
            }
        }
    }

    /// What is open now, and handshakes that have begun, stays the relay's until it has ended. The loop is
    /// woken up then.
    fn move_to_packets(&self) {
        // UDP has no connections: what a client sends on belongs to the other plane.
        if self.context.frontend.protocol == Protocol::Udp {
            return;
        }
        let (context, moved) = (Arc::clone(&self.context), self.context.connections.start_move());
        tokio::spawn(async move {
            tokio::time::sleep(HANDSHAKE_GRACE).await;
            context.connections.end_move(moved);
            context.connections.wait_until_no_old().await;
            context.plane.changed.notify_one();
        });
    }

    async fn check_free(&self) -> Result<(), DataPlaneError> {
        let FrontendContext { plane, frontend, .. } = &*self.context;
        // The agent before this one has the port, and has passed it on.
        if plane.inherited.role(frontend).is_some() {
            return Ok(());
        }
        bind(*frontend, 1).await.map(drop)
    }

    /// Closes the listener; open connections have the drain time-out to end. Idempotent.
    pub(super) fn remove(&mut self) {
        self.drain(Listener::close);
    }

    /// As [`RunningFrontend::remove`], but the next agent goes on to serve the sockets.
    pub(super) fn hand_over(&mut self) {
        self.drain(Listener::leave);
    }

    /// Duplicates of the sockets, for the next agent.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn sockets(&self) -> io::Result<Vec<RelaySocket>> {
        let Some(listener) = self.listener.as_ref().filter(|listener| listener.is_open()) else {
            return Ok(Vec::new());
        };
        let socket = |socket: OwnedFd| RelaySocket {
            frontend: self.context.frontend,
            is_beside_packets: self.role == Role::Beside,
            socket,
        };
        Ok(listener.sockets()?.into_iter().map(socket).collect())
    }

    /// Whether it was removed and its last connection has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.context.lifecycle.has_ended() && self.context.connections.count() == 0
    }

    /// The rule and the phase. A frontend whose listener has died counts as
    /// draining: it takes no new connections until it serves again. So does one that has moved to
    /// the packet plane.
    pub(super) fn status(&self) -> FrontendStatus {
        let rule = Arc::clone(&self.context.active_rule.load().rule);
        let is_main = self.role == Role::Main;
        let is_serving = is_main && self.context.lifecycle.is_serving() && self.is_complete();
        let phase = if is_serving { Phase::Serving } else { Phase::Draining };
        FrontendStatus { placement: self.placement(), ..FrontendStatus::relayed(rule, phase) }
    }

    /// The backends that failed and have not answered since, while all clients are served here.
    pub(super) fn failed_backends(&self) -> BTreeMap<Backend, BackendFailure> {
        let has_all = self.role == Role::Main && self.context.lifecycle.is_serving();
        if has_all { self.context.selection.failing() } else { BTreeMap::new() }
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

    fn drain(&mut self, close: impl FnOnce(&Listener)) {
        let until = clock::now() + self.context.plane.config.load().drain_timeout;
        let Some(drain) = self.context.lifecycle.start_draining(until) else { return };
        if let Some(listener) = &self.listener {
            close(listener);
        }
        self.permit = None;
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
    role: Role,
) -> Result<(Vec<Socket>, ListenerPermit), DataPlaneError> {
    let FrontendContext { plane, frontend, .. } = context;
    let frontend = *frontend;
    let permit =
        |of_namespace, beside| ListenerPermit { of_namespace: vec![of_namespace], _beside_packets: beside };
    let one_beside = || Arc::clone(&plane.limits.beside_packets).try_acquire_owned().ok();
    if let Some(sockets) = plane.inherited.take(&frontend) {
        // Accepted connections inherit the options of their listener, and an
        // older agent may have set others.
        if frontend.protocol == Protocol::Tcp {
            let prepared = sockets.iter().try_for_each(prepare);
            prepared.map_err(|source| DataPlaneError::Bind { frontend, source })?;
        }
        let of_namespace = namespace.open_listener(sockets.len());
        let beside = if role == Role::Beside { one_beside() } else { None };
        return Ok((sockets, permit(of_namespace, beside)));
    }
    let full = || DataPlaneError::NamespaceFull { frontend, most: namespace.most_descriptors() };
    match role {
        Role::Main => {
            let count = plane.workers.handles().len();
            let of_namespace = namespace.listener(count).ok_or_else(full)?;
            Ok((bind(frontend, count).await?, permit(of_namespace, None)))
        }
        Role::Beside => {
            let most = most_beside_packets();
            let beside = one_beside().ok_or(DataPlaneError::TooManyListeners { frontend, most })?;
            let of_namespace = namespace.listener(1).ok_or_else(full)?;
            Ok((bind_one(frontend)?, permit(of_namespace, Some(beside))))
        }
    }
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
    let is_in_time = tokio::time::timeout_at(drain.until, none_open).await.is_ok();
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
