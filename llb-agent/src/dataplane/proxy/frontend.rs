//! One frontend as the plane runs it: its socket, its rule and its life from
//! serving over draining to gone. What happens on the socket is not here.
//!
//! ```text
//!            serve                  remove              nothing open, or time-out
//!   (new) ---------> Serving -----------------> Draining ------------------------> Ended
//!                       ^                          |
//!                       `------- serve ------------'        serve after Ended starts anew
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::RelayConfig;
use super::affinity::Affinity;
use super::bind::{BoundSocket, bind};
use super::metrics::Metrics;
use super::selection::Selection;
use super::service_limit::ServiceCounts;
use super::{listener, udp};
use crate::dataplane::DataPlaneError;
use crate::model::{Frontend, FrontendStatus, Phase, Rule};

/// What the tasks of all frontends share.
#[derive(Debug)]
pub(super) struct PlaneContext {
    pub(super) config: RelayConfig,
    pub(super) metrics: Metrics,
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
}

/// What the tasks of one frontend share.
#[derive(Debug)]
pub(super) struct FrontendContext {
    pub(super) plane: Arc<PlaneContext>,
    pub(super) frontend: Frontend,
    /// For new connections and for each datagram.
    pub(super) rule: ArcSwap<Rule>,
    pub(super) selection: Selection,
    /// TCP connections open now. UDP sessions end with their socket.
    pub(super) connections: watch::Sender<usize>,
    /// Cancelled when the drain is over: what is still open is cut.
    pub(super) cut: CancellationToken,
    life: Mutex<Life>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Serving,
    Draining { until: Instant },
    Ended,
}

/// A frontend that serves or drains.
#[derive(Debug)]
pub(super) struct RunningFrontend {
    context: Arc<FrontendContext>,
    /// Absent without backends, and while draining.
    listener: Option<Listener>,
    /// Cancelled when the socket of the last listener is closed.
    closed: CancellationToken,
}

impl RunningFrontend {
    /// Not yet bound: [`RunningFrontend::serve`] comes next.
    pub(super) fn new(frontend: Frontend, rule: &Arc<Rule>, plane: Arc<PlaneContext>) -> Self {
        let closed = CancellationToken::new();
        closed.cancel();
        Self { context: Arc::new(FrontendContext::new(frontend, rule, plane)), listener: None, closed }
    }

    /// Serves by `rule` from now on. A listener exists exactly while there are
    /// backends: without one, the kernel refuses better than llb could.
    ///
    /// # Errors
    /// The frontend can't be bound; everything is as before.
    pub(super) async fn serve(&mut self, rule: &Arc<Rule>) -> Result<(), DataPlaneError> {
        let must_bind = !rule.backends.is_empty() && !self.is_listening();
        if rule.backends.is_empty() || must_bind {
            self.close_listener();
        }
        let socket = if must_bind {
            self.closed.cancelled().await;
            Some(bind(self.context.frontend).await?)
        } else {
            None
        };

        if !self.context.resume() {
            let FrontendContext { plane, frontend, .. } = &*self.context;
            self.context = Arc::new(FrontendContext::new(*frontend, rule, Arc::clone(plane)));
        }
        self.context.rule.store(Arc::clone(rule));
        if let Some(socket) = socket {
            let listener = Listener::start(socket, Arc::clone(&self.context));
            self.closed = listener.closed.clone();
            self.listener = Some(listener);
        }
        Ok(())
    }

    /// Closes the listener and gives open connections the drain time-out; idempotent.
    pub(super) fn remove(&mut self) {
        let config = &self.context.plane.config;
        let until = Instant::now() + config.drain_timeout;
        if !self.context.start_draining(until) {
            return;
        }
        self.close_listener();
        tracing::info!(
            frontend = %self.context.frontend,
            connections = *self.context.connections.borrow(),
            "draining"
        );
        tokio::spawn(drain(Arc::clone(&self.context), self.closed.clone(), until));
    }

    /// Removed, and the last connection has ended.
    pub(super) fn is_gone(&self) -> bool {
        *self.context.life() == Life::Ended && *self.context.connections.borrow() == 0
    }

    /// The rule and the phase. A frontend whose listener died by itself counts
    /// as draining: it takes nothing new, and serving again repairs it.
    pub(super) fn status(&self) -> FrontendStatus {
        let rule = self.context.rule.load_full();
        let takes_traffic = rule.backends.is_empty() || self.is_listening();
        let phase = if *self.context.life() == Life::Serving && takes_traffic {
            Phase::Serving
        } else {
            Phase::Draining
        };
        FrontendStatus { rule, phase }
    }

    /// Ends all that is open now.
    pub(super) fn cut(&self) {
        self.context.cut.cancel();
    }

    fn is_listening(&self) -> bool {
        self.listener.is_some() && !self.closed.is_cancelled()
    }

    fn close_listener(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.close();
        }
    }
}

impl FrontendContext {
    fn new(frontend: Frontend, rule: &Arc<Rule>, plane: Arc<PlaneContext>) -> Self {
        Self {
            plane,
            frontend,
            rule: ArcSwap::new(Arc::clone(rule)),
            selection: Selection::default(),
            connections: watch::Sender::new(0),
            cut: CancellationToken::new(),
            life: Mutex::new(Life::Serving),
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

    /// False if that has happened already.
    fn start_draining(&self, until: Instant) -> bool {
        let mut life = self.life();
        let is_serving = *life == Life::Serving;
        if is_serving {
            *life = Life::Draining { until };
        }
        is_serving
    }

    /// Ends the drain that was to last until `until`; false if the frontend
    /// has served again since.
    fn end_draining(&self, until: Instant) -> bool {
        let mut life = self.life();
        let is_this_drain = *life == Life::Draining { until };
        if is_this_drain {
            *life = Life::Ended;
        }
        is_this_drain
    }

    async fn wait_until_idle(&self) {
        // Fails only without a sender, and `self` has it.
        let _ = self.connections.subscribe().wait_for(|open| *open == 0).await;
    }
}

async fn drain(context: Arc<FrontendContext>, closed: CancellationToken, until: Instant) {
    let quiet = async {
        closed.cancelled().await;
        context.wait_until_idle().await;
    };
    let in_time = tokio::time::timeout_at(until, quiet).await.is_ok();
    if !context.end_draining(until) {
        return;
    }
    let connections = *context.connections.borrow();
    if in_time {
        tracing::info!(frontend = %context.frontend, "drained");
    } else {
        tracing::warn!(frontend = %context.frontend, connections, "drain time-out, cutting connections");
    }
    context.cut.cancel();
    context.wait_until_idle().await;
    context.plane.changed.notify_one();
}

// === Listener ===

/// The task that serves a bound socket.
#[derive(Debug)]
struct Listener {
    stop: CancellationToken,
    closed: CancellationToken,
    tcp: Option<Arc<TcpListener>>,
}

impl Listener {
    fn start(socket: BoundSocket, context: Arc<FrontendContext>) -> Self {
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        let tcp = match &socket {
            BoundSocket::Tcp(listener) => Some(Arc::clone(listener)),
            BoundSocket::Udp(_) => None,
        };
        tokio::spawn(run(socket, context, stop.clone(), closed.clone()));
        Self { stop, closed, tcp }
    }

    /// TCP refuses from this call on; the task closes the socket soon after.
    fn close(self) {
        self.stop.cancel();
        if let Some(listener) = self.tcp
            && let Err(error) = SockRef::from(&*listener).shutdown(std::net::Shutdown::Both)
        {
            tracing::debug!(%error, "listener was dead already");
        }
    }
}

async fn run(
    socket: BoundSocket,
    context: Arc<FrontendContext>,
    stop: CancellationToken,
    closed: CancellationToken,
) {
    // Even if this task panics, nobody waits for it for ever.
    let closed = closed.drop_guard();
    match socket {
        BoundSocket::Tcp(socket) => {
            tokio::select! {
                // Before the error by which a closed socket ends `accept`.
                biased;
                () = stop.cancelled() => {}
                () = listener::accept(&socket, &context) => {}
            }
        }
        BoundSocket::Udp(socket) => udp::forward(socket, Arc::clone(&context), &stop).await,
    }
    drop(closed);
    if !stop.is_cancelled() {
        context.plane.changed.notify_one();
    }
}
