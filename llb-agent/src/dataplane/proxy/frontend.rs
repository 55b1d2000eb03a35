// SPDX-License-Identifier: Apache-2.0
//! One frontend as the plane runs it: its socket, its rule and its life from
//! serving over draining to gone. What happens on the socket is not here.
//!
//! ```text
//!            serve                  remove              nothing open, or time-out
//!   (new) ---------> Serving -----------------> Draining ------------------------> Ended
//!                       ^                          |
//!                       `------- serve ------------'        serve after Ended starts anew
//! ```

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::Socket;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::RelayConfig;
use super::affinity::Affinity;
use super::bind::{bind, prepare};
use super::connections::Connections;
use super::listener::Listener;
use super::metrics::{Metrics, Refusal};
use super::offload::Offload;
use super::selection::Selection;
use super::service_limit::{ServiceCount, ServiceCounts};
use super::sockmap::{Sockmap, SockmapError};
use super::traffic::{FrontendTraffic, Traffic};
use super::with_causes;
use super::worker::Workers;
use crate::dataplane::DataPlaneError;
use crate::model::{
    Frontend, FrontendStatus, Phase, Placement, PlacementReason, PlaneKind, Protocol, RelayReason, Rule,
};

/// What the tasks of all frontends share.
#[derive(Debug)]
pub(super) struct PlaneContext {
    pub(super) config: RelayConfig,
    pub(super) workers: Workers,
    pub(super) metrics: Metrics,
    pub(super) traffic: Traffic,
    pub(super) offload: Offload,
    /// Moves the bytes of connections, or why not.
    pub(super) sockmap: Result<Sockmap, SockmapError>,
    /// One permit for each TCP connection that may be open.
    pub(super) connection_permits: Arc<Semaphore>,
    /// One permit for each UDP session that may be open.
    pub(super) session_permits: Arc<Semaphore>,
    /// TCP connections that each Service has open.
    pub(super) service_counts: ServiceCounts,
    /// Who had which backend.
    pub(super) affinity: Affinity,
    /// Told when `observe` has something new to say.
    pub(super) changed: Arc<Notify>,
    /// Sockets of a predecessor that no frontend has taken into use yet.
    pub(super) inherited: Mutex<BTreeMap<Frontend, Vec<Socket>>>,
    /// Cancelled when another agent has all sockets.
    pub(super) handed_over: CancellationToken,
}

/// What the tasks of one frontend share.
#[derive(Debug)]
pub(super) struct FrontendContext {
    pub(super) plane: Arc<PlaneContext>,
    pub(super) frontend: Frontend,
    /// For new connections and for each datagram.
    pub(super) in_force: ArcSwap<InForce>,
    pub(super) selection: Selection,
    /// TCP connections. UDP sessions end with their socket.
    pub(super) connections: Connections,
    life: Mutex<Life>,
}

/// A rule, and what each connection would have to look up for it.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) rule: Arc<Rule>,
    /// Connections of the rule's Service.
    pub(super) service_count: Arc<ServiceCount>,
    pub(super) traffic: Arc<FrontendTraffic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Serving,
    Draining { until: Instant },
    Ended,
}

/// After another plane has taken over, handshakes that have begun here may still
/// end here: Linux repeats a SYN-ACK after 1 s, and again after 2 s.
const HANDSHAKES: Duration = Duration::from_secs(4);
/// For a drain without a limit.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A frontend that serves or drains.
#[derive(Debug)]
pub(super) struct RunningFrontend {
    context: Arc<FrontendContext>,
    /// Absent without backends. Closed while draining.
    listener: Option<Listener>,
}

impl RunningFrontend {
    /// Not yet bound: [`RunningFrontend::serve`] comes next.
    pub(super) fn new(frontend: Frontend, rule: &Arc<Rule>, plane: Arc<PlaneContext>) -> Self {
        Self { context: Arc::new(FrontendContext::new(frontend, rule, plane)), listener: None }
    }

    /// Serves by `rule` from now on. A listener exists exactly while there are
    /// backends: without one, the kernel refuses better than llb could.
    ///
    /// # Errors
    /// The frontend can't be bound; everything is as before.
    pub(super) async fn serve(&mut self, rule: &Arc<Rule>) -> Result<(), DataPlaneError> {
        let must_bind = !rule.backends.is_empty() && !self.is_listening();
        if (rule.backends.is_empty() || must_bind)
            && let Some(listener) = self.listener.take()
        {
            listener.close();
            listener.closed().await;
        }
        let sockets = if must_bind { Some(self.context.open().await?) } else { None };

        if !self.context.resume() {
            let FrontendContext { plane, frontend, .. } = &*self.context;
            self.context = Arc::new(FrontendContext::new(*frontend, rule, Arc::clone(plane)));
        }
        self.context.in_force.store(Arc::new(InForce::new(self.context.frontend, rule, &self.context.plane)));
        if let Some(sockets) = sockets {
            let started = Listener::start(sockets, &self.context);
            let frontend = self.context.frontend;
            self.listener = Some(started.map_err(|source| DataPlaneError::Bind { frontend, source })?);
        }
        Ok(())
    }

    /// Closes the listener and gives open connections the drain time-out; idempotent.
    pub(super) fn remove(&mut self) {
        self.end(Listener::close);
    }

    /// Another plane takes what begins from now on: what is open goes on until it
    /// ends, however long that is, and what has begun already gets in.
    pub(super) fn give_away(&mut self) {
        let listener = self.listener.clone().filter(|_| self.context.frontend.protocol == Protocol::Tcp);
        let Some(listener) = listener else { return self.remove() };
        let context = Arc::clone(&self.context);
        self.end_until(Instant::now() + AS_LONG_AS_IT_TAKES, |_| {
            tokio::spawn(async move {
                tokio::time::sleep(HANDSHAKES).await;
                // Not if it serves again.
                let life = context.life();
                if *life != Life::Serving {
                    listener.close();
                }
            });
        });
    }

    /// As [`RunningFrontend::remove`], when another agent serves the sockets.
    pub(super) fn hand_over(&mut self) {
        self.end(Listener::leave);
    }

    /// The sockets once more, for another agent.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(super) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.listener.as_ref().filter(|listener| listener.is_open()).map_or(Ok(Vec::new()), Listener::sockets)
    }

    fn end(&mut self, close: impl FnOnce(&Listener)) {
        self.end_until(Instant::now() + self.context.plane.config.drain_timeout, close);
    }

    fn end_until(&mut self, until: Instant, close: impl FnOnce(&Listener)) {
        if !self.context.start_draining(until) {
            return;
        }
        if let Some(listener) = &self.listener {
            close(listener);
        }
        tracing::info!(
            frontend = %self.context.frontend,
            connections = self.context.connections.count(),
            "draining"
        );
        let closed = self.listener.as_ref().map(Listener::closed);
        tokio::spawn(drain(Arc::clone(&self.context), closed, until));
    }

    /// Removed, and the last connection has ended.
    pub(super) fn is_gone(&self) -> bool {
        *self.context.life() == Life::Ended && self.context.connections.count() == 0
    }

    /// The rule and the phase. A frontend whose listener died by itself counts
    /// as draining: it takes nothing new, and serving again repairs it.
    pub(super) fn status(&self) -> FrontendStatus {
        let rule = Arc::clone(&self.context.in_force.load().rule);
        let takes_traffic = rule.backends.is_empty() || self.is_listening();
        let phase = if *self.context.life() == Life::Serving && takes_traffic {
            Phase::Serving
        } else {
            Phase::Draining
        };
        FrontendStatus { rule: Some(rule), phase, placement: self.placement() }
    }

    fn placement(&self) -> Placement {
        let relayed =
            |plane, reason| Placement { plane, mode: None, why: Some(PlacementReason::Relay(reason)) };
        match (self.context.frontend.protocol, &self.context.plane.sockmap) {
            (_, Err(SockmapError::NotWanted)) => Placement::default(),
            (Protocol::Tcp, Ok(_)) => relayed(PlaneKind::Sockmap, RelayReason::Sockmap),
            (Protocol::Tcp, Err(error)) => {
                relayed(PlaneKind::Userspace, RelayReason::NoSockmap { error: with_causes(error) })
            }
            (Protocol::Udp, _) => relayed(PlaneKind::Userspace, RelayReason::SockmapHasNoUdp),
        }
    }

    /// Ends all that is open now.
    pub(super) fn cut(&self) {
        self.context.connections.cut();
    }

    fn is_listening(&self) -> bool {
        self.listener.as_ref().is_some_and(Listener::is_open)
    }
}

impl InForce {
    fn new(frontend: Frontend, rule: &Arc<Rule>, plane: &PlaneContext) -> Self {
        Self {
            rule: Arc::clone(rule),
            service_count: plane.service_counts.of(&rule.service),
            traffic: plane.traffic.of_frontend(&rule.service, frontend),
        }
    }
}

impl FrontendContext {
    fn new(frontend: Frontend, rule: &Arc<Rule>, plane: Arc<PlaneContext>) -> Self {
        Self {
            frontend,
            in_force: ArcSwap::from_pointee(InForce::new(frontend, rule, &plane)),
            selection: Selection::new(frontend, plane.traffic.clone()),
            connections: Connections::default(),
            life: Mutex::new(Life::Serving),
            plane,
        }
    }

    /// Counts connections or datagrams that were refused.
    pub(super) fn refused(&self, reason: Refusal, count: u64) {
        self.plane.metrics.refusals(self.frontend.protocol, reason).inc_by(count);
        self.in_force.load().traffic.refusals(reason).inc_by(count);
    }

    /// The sockets of a predecessor, or new ones.
    async fn open(&self) -> Result<Vec<Socket>, DataPlaneError> {
        let inherited =
            self.plane.inherited.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.frontend);
        match inherited {
            // Its listeners pass on what it has set, which an older one did in its own way.
            Some(sockets) => match self.frontend.protocol {
                Protocol::Tcp => sockets.iter().try_for_each(prepare).map(|()| sockets),
                Protocol::Udp => Ok(sockets),
            }
            .map_err(|source| DataPlaneError::Bind { frontend: self.frontend, source }),
            None => bind(self.frontend, self.plane.workers.handles().len()).await,
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serving from now on; false if it has ended.
    fn resume(&self) -> bool {
        let mut life = self.life();
        if *life == Life::Ended {
            return false;
        }
        *life = Life::Serving;
        true
    }

    /// False if that has happened already, and it ends no later.
    fn start_draining(&self, until: Instant) -> bool {
        let mut life = self.life();
        let is_news = match *life {
            Life::Serving => true,
            Life::Draining { until: before } => until < before,
            Life::Ended => false,
        };
        if is_news {
            *life = Life::Draining { until };
        }
        is_news
    }

    /// Ends the drain that was to last until `until`; false if the frontend
    /// has served again since, or is to end sooner.
    fn end_draining(&self, until: Instant) -> bool {
        let mut life = self.life();
        let is_this_drain = *life == Life::Draining { until };
        if is_this_drain {
            *life = Life::Ended;
        }
        is_this_drain
    }
}

async fn drain(context: Arc<FrontendContext>, closed: Option<impl Future<Output = ()>>, until: Instant) {
    let quiet = async {
        if let Some(closed) = closed {
            closed.await;
        }
        context.connections.wait_until_none().await;
    };
    let in_time = tokio::time::timeout_at(until, quiet).await.is_ok();
    if !context.end_draining(until) {
        return;
    }
    let connections = context.connections.count();
    if in_time {
        tracing::info!(frontend = %context.frontend, "drained");
    } else {
        tracing::warn!(frontend = %context.frontend, connections, "drain time-out, cutting connections");
    }
    context.connections.cut();
    context.connections.wait_until_none().await;
    context.plane.changed.notify_one();
}
