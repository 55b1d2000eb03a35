// SPDX-License-Identifier: Apache-2.0
//! Builds everything that a serving agent needs, and takes over from a running
//! agent if there is one.
//!
//! ```text
//!   nobody serves:  build -> attach the packet plane -> in charge
//!   taking over:    build with the other agent's sockets -> serve all frontends
//!                   -> the other agent gives up its locks -> attach the packet plane -> in charge
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::group::{Peers, PeersTask, group_of};
use super::handed_over::{InheritedSockets, inherited_locks, inherited_sockets};
use super::link_patience::LinkPatience;
use super::locks::{Locks, setup_of};
use super::objects::{Objects, StartingPoint};
use super::preconditions::LINK_PAUSE;
use super::reload::Reloads;
use super::service_manager;
use super::signals::Signals;
use crate::addresses::{AddressTable as _, AgentLocks, NetlinkAddresses};
use crate::admin::{self, AdminSocket};
use crate::clock;
use crate::config::Configured;
use crate::dataplane::Planes;
use crate::dataplane::packet::{LinkLocks, LinkPermission, PacketError, PacketPlane, PacketSetup, Turn};
use crate::dataplane::proxy::ProxyPlane;
use crate::error_chain::ErrorChain;
use crate::handover::{Inheritance, Successors};
use crate::health::Health;
use crate::ownership::News;
use crate::reconcile::{ReconcileMetrics, Reconciler, Report, Rooms, Wakeups};
use crate::source::{ApiConnections, Reserved};
use crate::status::StatusSink;

/// The loop with its real surroundings.
pub(super) type Loop<S> = Reconciler<Planes, NetlinkAddresses, S>;

/// An agent that is in charge: everything that runs, and everything that it
/// passes on when it hands over.
pub(super) struct Serving<S> {
    pub(super) configured: Configured,
    pub(super) objects: Objects,
    pub(super) reconciler: Loop<S>,
    pub(super) wakeups: Wakeups,
    pub(super) report: watch::Sender<Arc<Report>>,
    pub(super) signals: Signals,
    pub(super) reloads: Reloads,
    pub(super) successors: Successors,
    pub(super) locks: Locks,
    pub(super) admin: AdminEndpoint,
    /// Tells the service manager. Dropped when this agent is not in charge any more.
    pub(super) told: JoinSet<()>,
    /// `None`: the box is in no group.
    pub(super) peers: Option<PeersTask>,
}

/// The admin endpoint, running.
pub(super) struct AdminEndpoint {
    /// Its address, and a second descriptor of its listener, for a successor.
    pub(super) tcp: Option<(SocketAddr, OwnedFd)>,
    _tasks: JoinSet<()>,
}

/// Starts to serve. `None` if a signal came before this agent was in charge:
/// the running agent then continues, and nothing was changed.
pub(super) async fn start<S: StatusSink>(
    configured: Configured,
    reloads: Reloads,
    starting_point: StartingPoint,
    objects: Objects,
    statuses: S,
    admin_socket: Option<AdminSocket>,
) -> anyhow::Result<Option<Serving<S>>> {
    let takes_over = matches!(starting_point, StartingPoint::TakingOver(_));
    let mut building = Building::new(configured, reloads, objects, statuses, takes_over).await?;
    match starting_point {
        StartingPoint::NobodyServes(locks) => {
            let listener = building.bind_admin(None).await?;
            building.start_packet_plane(LinkLocks::new(), &locks.agent).await?;
            building.queue_up().await;
            building.finish(locks, listener, admin_socket).map(Some)
        }
        StartingPoint::TakingOver(mut inheritance) => {
            let sockets = inherited_sockets(std::mem::take(&mut inheritance.sockets));
            let InheritedSockets { frontends, admin } = sockets;
            building.reconciler.rooms.plane.relay().inherit(frontends);
            let listener = building.bind_admin(admin).await?;
            let Some(locks) = building.take_over(inheritance).await? else { return Ok(None) };
            building.finish(locks, listener, admin_socket).map(Some)
        }
    }
}

/// Wakes the loop when links or addresses have changed. Before that, it ends the connections to the API whose own
/// address is gone: the loop's writes would wait on them for many seconds.
async fn pass_on(changed: Arc<Notify>, connections: ApiConnections, links: Arc<Notify>) {
    loop {
        changed.notified().await;
        connections.end_orphans();
        links.notify_one();
    }
}

/// Wakes the loop when the API server has other addresses: a VIP may be one of them. Ends with the source.
async fn wake(mut api_servers: watch::Receiver<Reserved>, links: Arc<Notify>) {
    while api_servers.changed().await.is_ok() {
        links.notify_one();
    }
}

/// Opens the packet plane. A link that goes away while it is given its program is waited for: without a packet plane, all
/// connections of the agent before would end.
async fn open_packet_plane(
    setup: &PacketSetup,
    locks: LinkLocks,
    changed: &Arc<Notify>,
) -> Result<PacketPlane, PacketError> {
    let (mut patience, mut is_said) = (LinkPatience::default(), false);
    loop {
        // Copies, so that the next try has the locks, too: the agent before may hold its own for seconds.
        let copies = locks.iter().filter_map(|(name, lock)| Some((name.clone(), lock.try_clone().ok()?)));
        let opened = PacketPlane::open(setup.clone(), copies.collect(), changed.clone()).await;
        match &opened {
            Err(error)
                if error.is_link_away()
                    && patience.goes_on(matches!(error, PacketError::NoSuchLink { .. }), clock::now()) =>
            {
                if !std::mem::replace(&mut is_said, true) {
                    tracing::warn!(error = %ErrorChain(error), "a link has gone away; its program is tried again");
                }
                tokio::time::sleep(LINK_PAUSE).await;
            }
            _ => return opened,
        }
    }
}

/// An agent that is not in charge yet.
struct Building<S> {
    configured: Configured,
    reloads: Reloads,
    objects: Objects,
    reconciler: Loop<S>,
    wakeups: Wakeups,
    registry: Registry,
    signals: Signals,
    /// `None`: the box is in no group.
    peers: Option<Peers>,
    /// Receives the news of the group's task.
    group_news: watch::Sender<News>,
}

impl<S: StatusSink> Building<S> {
    async fn new(
        configured: Configured,
        reloads: Reloads,
        objects: Objects,
        statuses: S,
        takes_over: bool,
    ) -> anyhow::Result<Self> {
        let config = &configured.config;
        let wakeups = Wakeups { plane: Arc::new(Notify::new()), links: Arc::new(Notify::new()) };
        let changed = Arc::new(Notify::new());
        let mut addresses = NetlinkAddresses::new(
            config.address_links(),
            config.address_tag,
            config.state_dir.clone(),
            changed.clone(),
        )?;
        tokio::spawn(pass_on(changed, objects.connections.clone(), wakeups.links.clone()));
        addresses.set_api_servers(objects.api_servers.clone());
        tokio::spawn(wake(objects.api_servers.clone(), wakeups.links.clone()));
        if config.group.is_some() {
            addresses.join_group(wakeups.links.clone())?;
        }
        let mut registry = Registry::default();
        let relay = ProxyPlane::new(config.relay, &mut registry, wakeups.plane.clone())
            .context("cannot start the relay")
            .map_err(with_loopback_advice)?;
        let plane = Planes::new(relay, config.datapath, takes_over);
        let metrics = ReconcileMetrics::register(&mut registry);
        statuses.register(&mut registry);
        let signals = Signals::listen()?;
        let rooms = Rooms { plane, addresses, statuses };
        let mut reconciler = Reconciler::new(rooms, config.policy.clone(), metrics.clone());
        let (group_news, shown) = watch::channel(News::default());
        let peers = config.group.as_ref().map(|group| Peers::open(config, group)).transpose()?;
        if let Some(group) = &config.group {
            metrics.register_group(&mut registry);
            reconciler.join(group_of(group, &config.links), shown);
        }
        reconciler.set_health(Health::start(config.health, &mut registry));
        Ok(Self { configured, reloads, objects, reconciler, wakeups, registry, signals, peers, group_news })
    }

    /// The TCP side of the admin endpoint, if there is to be one.
    async fn bind_admin(
        &self,
        inherited: Option<(SocketAddr, OwnedFd)>,
    ) -> anyhow::Result<Option<TcpListener>> {
        let Some(address) = self.configured.config.admin.address else { return Ok(None) };
        let bound = admin::bind(address, inherited).await;
        Ok(Some(bound.map_err(|error| match address.ip().is_loopback() {
            true => with_loopback_advice(error),
            false => error.into(),
        })?))
    }

    /// Serves every frontend through the running agent's sockets, takes its locks, and starts the packet
    /// plane with those of the links. Returns the locks of the state folder and of the links; `None` if a signal
    /// came before all frontends were served.
    async fn take_over(&mut self, inheritance: Inheritance) -> anyhow::Result<Option<Locks>> {
        let objects = self.objects.received.borrow().clone();
        tokio::select! {
            () = self.reconciler.serve_frontends(&objects) => {}
            () = self.signals.stop() => return Ok(None),
        }
        let (links, state_dir) = (self.configured.config.address_links(), &self.configured.config.state_dir);
        // Before the other agent gives up: a link that a third one has is an error.
        let agent = AgentLocks::take_beside_predecessor(&links, state_dir).await?;
        let inherited = inherited_locks(inheritance.complete().await?)?;
        agent.complete(&links, inherited.agent).await?;
        let locks = Locks { state: inherited.state, agent };
        self.reconciler.rooms.plane.relay().forget_inherited();
        self.start_packet_plane(inherited.links, &locks.agent).await?;
        tracing::info!("took over");
        Ok(Some(locks))
    }

    /// Without a packet plane the relay serves everything. Only a link that
    /// another agent holds is an error: no plane may serve there.
    async fn start_packet_plane(&mut self, locks: LinkLocks, agent: &AgentLocks) -> anyhow::Result<()> {
        let config = &self.configured.config;
        if !config.datapath.has_packet_plane() {
            return Ok(());
        }
        let agent = agent.clone();
        let setup = PacketSetup {
            links: config.links.clone(),
            bpf_dir: config.bpf_dir.clone(),
            datapath: config.datapath,
            config: config.packet,
            drain_timeout: config.relay.drain_timeout,
            permission: LinkPermission::new(move |ifindex| agent.has(ifindex)),
            turn: Turn::default(),
        };
        let opened = open_packet_plane(&setup, locks, &self.wakeups.plane).await;
        let planes = &mut self.reconciler.rooms.plane;
        match opened {
            Ok(plane) => {
                plane.register(&mut self.registry);
                planes.start(Ok(plane));
                Ok(())
            }
            Err(error @ PacketError::Busy { .. }) => Err(error.into()),
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "no packet plane; the relay serves everything");
                planes.start(Err(error));
                Ok(())
            }
        }
    }

    /// In a group, makes shares that are at other boxes wait until this agent serves.
    async fn queue_up(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        let addresses = &mut self.reconciler.rooms.addresses;
        let done: anyhow::Result<()> = async {
            addresses.observe().await?;
            Ok(peers.queue_up(addresses.markers())?)
        }
        .await;
        if let Err(error) = done {
            tracing::warn!("the shares of this box may come back before it serves: {error:#}");
        }
    }

    /// From here on this agent is in charge: opens the admin endpoint, and listens for successors.
    fn finish(
        self,
        locks: Locks,
        listener: Option<TcpListener>,
        socket: Option<AdminSocket>,
    ) -> anyhow::Result<Serving<S>> {
        let Self { configured, reloads, objects, mut reconciler, wakeups, registry, signals, .. } = self;
        let (peers, group_news) = (self.peers, self.group_news);
        let config = &configured.config;
        reconciler.rooms.addresses.keep_others_off(locks.agent.clone());
        if let Some(in_charge) = &objects.in_charge {
            in_charge.send_replace(true);
        }
        let (report, shown) = watch::channel(Arc::new(Report::default()));
        let told = service_manager::follow(shown.clone());
        let tcp = listener.as_ref().map(descriptor).transpose()?;
        if let Some((address, _)) = &tcp {
            tracing::info!(%address, "admin endpoint: /healthz /readyz /metrics /state");
        }
        let plane = &reconciler.rooms.plane;
        let (states, counting) = (plane.backend_states(), plane.counting());
        let tasks = admin::serve(listener, socket, shown, registry, states, counting);
        let setup = setup_of(config, reconciler.rooms.plane.packet().is_some());
        let successors = Successors::listen(&config.state_dir, setup).unwrap_or_else(|error| {
            tracing::warn!(error = %ErrorChain(&error), "no new agent can take over without a gap");
            Successors::nobody()
        });
        let peers = peers.map(|peers| peers.follow(report.subscribe(), group_news, wakeups.links.clone()));
        let admin = AdminEndpoint { tcp, _tasks: tasks };
        Ok(Serving {
            configured,
            objects,
            reconciler,
            wakeups,
            report,
            signals,
            reloads,
            successors,
            locks,
            admin,
            told,
            peers,
        })
    }
}

/// The listener's address, and a second descriptor of it.
fn descriptor(listener: &TcpListener) -> io::Result<(SocketAddr, OwnedFd)> {
    Ok((listener.local_addr()?, listener.as_fd().try_clone_to_owned()?))
}

/// Says what helps if 127.0.0.1 cannot be bound, which the relay and by default the admin endpoint do.
fn with_loopback_advice(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    let is_away = |cause: &(dyn std::error::Error + 'static)| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
    };
    if error.chain().any(is_away) {
        error.context(
            "127.0.0.1 is probably missing, because the loopback interface is down: ip link set lo up",
        )
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_loopback_it_says_how_to_bring_it_up() {
        let shown = |kind: io::ErrorKind| {
            let error = anyhow::Error::from(io::Error::from(kind)).context("cannot start the relay");
            ErrorChain(with_loopback_advice(error).as_ref()).to_string()
        };
        let away = shown(io::ErrorKind::AddrNotAvailable);
        assert!(away.contains("ip link set lo up: cannot start the relay: address not available"), "{away}");
        assert_eq!(shown(io::ErrorKind::AddrInUse), "cannot start the relay: address in use");
    }
}
