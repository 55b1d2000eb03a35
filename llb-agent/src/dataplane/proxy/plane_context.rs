// SPDX-License-Identifier: Apache-2.0
//! What the tasks of all frontends share. Data only: each part has its own file.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::affinity::Affinity;
use super::inherited::InheritedSockets;
use super::metrics::Metrics;
use super::namespace_share::NamespaceShares;
use super::service_limit::ServiceCounts;
use super::sockmap::{Sockmap, SockmapError};
use super::traffic::Traffic;
use super::traffic_collector;
use super::udp_offload::UdpOffload;
use super::worker::Workers;
use crate::config::RelayConfig;

/// One in so many of the file descriptors that the process may open is for listeners beside the packet
/// plane. The others are for connections, and for Services that only the relay can serve.
const DESCRIPTORS_FOR_ONE_BESIDE: u64 = 4;

/// Shared by all tasks of the plane.
#[derive(Debug)]
pub(super) struct PlaneContext {
    /// Connections keep the one with which they began.
    pub(super) config: ArcSwap<RelayConfig>,
    pub(super) workers: Workers,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    /// The backend that each client had last.
    pub(super) affinity: Affinity,
    pub(super) udp_offload: UdpOffload,
    /// Lets the kernel move the bytes of connections; or the reason why it can't.
    pub(super) sockmap: Result<Sockmap, SockmapError>,
    /// Notified when `observe` would return something new.
    pub(super) changed: Arc<Notify>,
    /// Notified when a backend is found dead, or answers again.
    pub(super) health_changed: Arc<Notify>,
    /// Sockets of the previous agent that no frontend uses yet.
    pub(super) inherited: InheritedSockets,
    /// Cancelled when the next agent has all sockets.
    pub(super) handed_over: CancellationToken,
}

/// What may be open at one time.
#[derive(Debug)]
pub(super) struct Limits {
    /// One permit for each TCP connection.
    pub(super) connections: Arc<Semaphore>,
    /// One permit for each UDP session.
    pub(super) udp_sessions: Arc<Semaphore>,
    /// One permit for each listener beside the packet plane.
    pub(super) beside_packets: Arc<Semaphore>,
    /// TCP connections of each Service.
    pub(super) services: ServiceCounts,
    /// What each namespace can have of all of these, and of the file descriptors.
    pub(super) namespaces: NamespaceShares,
}

/// What is counted.
#[derive(Debug)]
pub(super) struct Counters {
    /// Of the whole plane.
    pub(super) totals: Metrics,
    /// Of each frontend and each backend.
    pub(super) traffic: Traffic,
}

impl PlaneContext {
    /// Starts the workers, and sockmap if `config` asks for it. The metrics
    /// appear in `registry`.
    ///
    /// # Errors
    /// The workers can't be started, or there are no descriptors left.
    pub(super) fn new(
        config: RelayConfig,
        registry: &mut Registry,
        changed: Arc<Notify>,
    ) -> io::Result<Self> {
        let permits = |limit: NonZeroUsize| Arc::new(Semaphore::new(limit.get().min(Semaphore::MAX_PERMITS)));
        Ok(Self {
            limits: Limits {
                connections: permits(config.max_connections),
                udp_sessions: permits(config.max_udp_sessions),
                beside_packets: Arc::new(Semaphore::new(most_beside_packets())),
                services: ServiceCounts::default(),
                namespaces: NamespaceShares::new(&config, Arc::clone(&changed)),
            },
            counters: Counters {
                totals: Metrics::register(registry),
                traffic: traffic_collector::register(registry),
            },
            affinity: Affinity::default(),
            udp_offload: UdpOffload::probe()?,
            workers: Workers::start(config.workers)?,
            sockmap: Sockmap::start_if_wanted(config.sockmap, registry),
            changed,
            health_changed: Arc::default(),
            inherited: InheritedSockets::default(),
            handed_over: CancellationToken::new(),
            config: ArcSwap::from_pointee(config),
        })
    }
}

impl PlaneContext {
    /// From now on new connections and sessions have these limits. What is open beyond them stays.
    pub(super) fn set_config(&self, config: RelayConfig) {
        let before = self.config.swap(Arc::new(config));
        resize(&self.limits.connections, before.max_connections, config.max_connections);
        resize(&self.limits.udp_sessions, before.max_udp_sessions, config.max_udp_sessions);
        self.limits.namespaces.set_most(&config);
    }
}

/// Gives the semaphore more permits, or takes some away: those that are in use when they are given back.
fn resize(permits: &Arc<Semaphore>, before: NonZeroUsize, after: NonZeroUsize) {
    let count = |limit: NonZeroUsize| limit.get().min(Semaphore::MAX_PERMITS);
    let (before, after) = (count(before), count(after));
    permits.add_permits(after.saturating_sub(before));
    let surplus = before.saturating_sub(after);
    let in_use = surplus - permits.forget_permits(surplus);
    // The command line allows no number that is too large for this.
    if let Some(in_use) = u32::try_from(in_use).ok().filter(|in_use| *in_use > 0) {
        let permits = Arc::clone(permits);
        // It waits in the semaphore's own queue, so nobody gets a permit before it.
        tokio::spawn(async move {
            if let Ok(surplus) = permits.acquire_many_owned(in_use).await {
                surplus.forget();
            }
        });
    }
}

/// How many listeners there can be beside the packet plane.
pub(super) fn most_beside_packets() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = usize::try_from(descriptors / DESCRIPTORS_FOR_ONE_BESIDE).unwrap_or(usize::MAX);
    most.min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(permits: usize) -> NonZeroUsize {
        NonZeroUsize::new(permits).unwrap()
    }

    #[tokio::test]
    async fn what_is_free_is_taken_at_once() {
        let permits = Arc::new(Semaphore::new(4));
        let open = Arc::clone(&permits).try_acquire_owned().unwrap();
        resize(&permits, limit(4), limit(2));
        assert_eq!(permits.available_permits(), 1);
        drop(open);
        assert_eq!(permits.available_permits(), 2);
    }

    #[tokio::test]
    async fn a_lower_limit_takes_what_is_in_use_when_it_is_given_back() {
        let permits = Arc::new(Semaphore::new(4));
        let mut open: Vec<_> = (0..4).map(|_| Arc::clone(&permits).try_acquire_owned().unwrap()).collect();
        resize(&permits, limit(4), limit(2));
        tokio::task::yield_now().await;
        open.truncate(2);
        tokio::task::yield_now().await;
        assert!(permits.try_acquire().is_err(), "two are open, and there are two");
        open.truncate(1);
        assert!(permits.try_acquire().is_ok());
        resize(&permits, limit(2), limit(3));
        drop(open);
        assert_eq!(permits.available_permits(), 3);
    }
}
