// SPDX-License-Identifier: Apache-2.0
//! Builds every room, wires them, and ends them in order. Decides nothing else.

mod objects;
mod succession;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::addresses::{AddressTable, NetlinkAddresses, link_names};
use crate::config::{AddressTag, AtStop, Cli, Config, Invocation, SourceConfig, kubeconfig_variable};
use crate::dataplane::Planes;
use crate::dataplane::packet::{self, LinkLocks, PacketError, PacketPlane, PacketSetup};
use crate::dataplane::proxy::ProxyPlane;
use crate::error_chain::ErrorChain;
use crate::handover::{self, Item, Successors};
use crate::kernel::{Cap, KernelAbilities, missing_capabilities};
use crate::model::AddressKey;
use crate::reconcile::{ReconcileMetrics, Reconciler, Report, Rooms, Wakeups};
use crate::source::{KubernetesSource, ManifestSource, SavedSnapshots, connect};
use crate::status::StatusSink;
use crate::status::file::FileStatuses;
use crate::status::kubernetes::KubernetesStatuses;
use crate::{admin, explain};
use objects::{Objects, Place};
use succession::{Asked, Signals, asked, hand_over, leave, locks, sorted};

/// Does what the command line says.
///
/// # Errors
/// The agent could not start; the text says why, and the way out.
pub fn main(cli: Cli) -> anyhow::Result<()> {
    match cli.invocation()? {
        Invocation::Detach { bpf_dir, state_dir } => {
            let links = packet::detach(&bpf_dir)?;
            tracing::info!(?links, "detached");
            let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
            runtime.block_on(remove_addresses(links, state_dir))
        }
        Invocation::Explain { admin, service } => {
            let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
            runtime.block_on(explain::ask(admin, &service))
        }
        Invocation::Trace { client, one_in, count, bpf_dir } => {
            let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
            runtime.block_on(packet::trace(&bpf_dir, client, one_in, count))
        }
        Invocation::Serve(config) => {
            let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
            runtime.block_on(run(*config))
        }
    }
}

/// Runs until SIGTERM or SIGINT, or until another agent has taken over; old
/// connections get the drain time-out, a second signal ends them at once.
///
/// # Errors
/// Something that the agent can't do without is missing; the text says what.
async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), links = ?config.links, "llb-agent starts");
    let abilities = KernelAbilities::probe();
    tracing::info!("{abilities}");
    check_capabilities(&config)?;
    raise_descriptor_limit(&config);
    let start = handover::start(&config.state_dir, &config.links).await?;

    match config.source.clone() {
        SourceConfig::Manifests(path) => {
            let source = ManifestSource::start(&path)?;
            let mut objects = Objects::follow(|out| source.run(out));
            let place = objects.wait_for_place(start).await?;
            let statuses = FileStatuses::open(&config.state_dir);
            serve(config, place, objects, statuses).await
        }
        SourceConfig::Kubernetes { kubeconfig, context } => {
            let cluster = connect(kubeconfig.as_ref(), context, kubeconfig_variable()).await?;
            tracing::info!(url = cluster.url, "watching the cluster");
            let (in_charge, is_in_charge) = watch::channel(false);
            let saved = SavedSnapshots::new(&config.state_dir, cluster.identity, is_in_charge);
            let source = KubernetesSource::start(&cluster.client, &config.policy.namespaces, saved);
            let mut objects = Objects::follow(|out| source.run(out));
            objects.in_charge = Some(in_charge);
            let place = objects.wait_for_place(start).await?;
            let statuses = KubernetesStatuses::new(cluster.client);
            serve(config, place, objects, statuses).await
        }
    }
}

/// The VIPs that llb has put on these links, and that nobody serves any more.
async fn remove_addresses(links: Vec<String>, state_dir: PathBuf) -> anyhow::Result<()> {
    let mut addresses = NetlinkAddresses::new(links, AddressTag::Auto, state_dir, Arc::default())?;
    for link in addresses.observe().await? {
        for known in link.addresses.iter().filter(|known| known.ours) {
            let key = AddressKey { link: link.name.clone(), address: known.net.addr() };
            addresses.remove(&key, known.net.prefix_len()).await?;
            tracing::info!(address = %key, "removed");
        }
    }
    Ok(())
}

/// All at once, so that nobody has to find them one by one.
fn check_capabilities(config: &Config) -> anyhow::Result<()> {
    let mut wanted = vec![Cap::NetAdmin, Cap::NetBindService];
    if config.datapath.has_packet_plane() {
        wanted.push(Cap::Bpf);
    }
    let missing = missing_capabilities(&wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    anyhow::bail!(
        "missing rights: {list}; run it as root (sudo llb-agent ...), or grant them, as systemd does by AmbientCapabilities="
    )
}

/// A link that is missing at the start is a slip of the pen; one that goes
/// away later is a problem, and comes back.
async fn check_links(config: &Config, addresses: &mut NetlinkAddresses) -> anyhow::Result<()> {
    let found = addresses.observe().await?;
    for name in &config.links {
        if !found.iter().any(|link| link.name == *name) {
            let names = link_names();
            anyhow::bail!(
                "--linkdevice {name}: there is no such link; this machine has: {}",
                names.join(", ")
            );
        }
    }
    Ok(())
}

async fn serve<S: StatusSink>(
    config: Config,
    place: Place,
    mut objects: Objects,
    statuses: S,
) -> anyhow::Result<()> {
    let wakeups = Wakeups { plane: Arc::new(Notify::new()), links: Arc::new(Notify::new()) };
    let mut addresses = NetlinkAddresses::new(
        config.links.clone(),
        config.address_tag,
        config.state_dir.clone(),
        wakeups.links.clone(),
    )?;
    check_links(&config, &mut addresses).await?;
    let mut registry = Registry::default();
    let relay = ProxyPlane::new(config.relay, &mut registry, wakeups.plane.clone())
        .context("cannot start the relay's threads")?;
    let mut plane = Planes::new(relay, config.datapath, matches!(place, Place::Inherited(_)));
    let metrics = ReconcileMetrics::register(&mut registry);
    let mut signals = Signals::listen()?;

    let mut inherited_admin = None;
    let successor = match place {
        Place::Free(lock) => Err(lock),
        Place::Inherited(mut inheritance) => {
            let inherited = sorted(std::mem::take(&mut inheritance.sockets));
            plane.relay().inherit(inherited.frontends);
            inherited_admin = inherited.admin;
            Ok(inheritance)
        }
    };
    let listener = admin::bind(config.admin, inherited_admin).await?;
    let admin_socket = listener.as_fd().try_clone_to_owned()?;
    let admin_address = listener.local_addr()?;
    let mut reconciler =
        Reconciler::new(Rooms { plane, addresses, statuses }, config.policy.clone(), metrics);
    let lock = match successor {
        Err(lock) => {
            start_packet_plane(
                &config,
                LinkLocks::new(),
                &wakeups,
                &mut registry,
                &mut reconciler.rooms.plane,
            )
            .await?;
            lock
        }
        Ok(inheritance) => {
            let objects = objects.received.borrow().clone();
            tokio::select! {
                () = reconciler.serve_frontends(&objects) => {}
                () = signals.stop() => return Ok(()),
            }
            let (lock, links) = locks(inheritance.complete().await?)?;
            reconciler.rooms.plane.relay().forget_inherited();
            start_packet_plane(&config, links, &wakeups, &mut registry, &mut reconciler.rooms.plane).await?;
            tracing::info!("took over");
            lock
        }
    };
    if let Some(in_charge) = &objects.in_charge {
        in_charge.send_replace(true);
    }

    let (report, shown) = watch::channel(Report::default());
    let admin = admin::serve(listener, shown, registry, reconciler.rooms.plane.backend_states());
    tracing::info!(address = %admin_address, "admin endpoint: /healthz /readyz /metrics /state");
    let mut successors = Successors::listen(&config.state_dir, &config.links).unwrap_or_else(|error| {
        tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)));
        Successors::nobody()
    });

    // Whether it is to end as soon as the new agents that are there have had their chance.
    let mut patience = None;
    loop {
        let asked = asked(&mut successors, &mut signals, patience);
        match reconciler.run(&mut objects.received, &wakeups, &report, asked).await {
            Asked::Stop if patience.is_none() && successors.is_any_waiting() => {
                tracing::info!("a new agent is there: ending when it has taken over");
                patience = Some(Instant::now() + config.relay.drain_timeout);
            }
            Asked::Stop => break,
            Asked::HandOver(takeover) => {
                reconciler.pause().await;
                let sockets = reconciler.rooms.plane.sockets().map(|sockets| {
                    let frontends = sockets.into_iter().map(|(frontend, socket)| (frontend.into(), socket));
                    frontends.collect()
                });
                let endpoint = (Item::Admin { address: admin_address }, &admin_socket);
                let links = reconciler.rooms.plane.locks();
                match hand_over(takeover, sockets, endpoint, &lock, links).await {
                    Ok(()) => {
                        admin.abort();
                        drop((objects, successors, lock, admin_socket));
                        leave(reconciler, &wakeups, signals, config.after_handover).await;
                        return Ok(());
                    }
                    Err(error) => tracing::warn!("going on: {error:#}"),
                }
            }
        }
    }
    drop(successors);

    tracing::info!(limit = ?config.relay.drain_timeout, "ending: no new connections; a second signal ends the old ones at once");
    let keep = config.packet.at_stop == AtStop::Keep;
    tokio::select! {
        () = reconciler.shut_down(&wakeups, keep) => {}
        () = signals.stop() => {
            tracing::warn!("second signal: ending all connections now");
            reconciler.rooms.plane.abort();
            reconciler.shut_down(&wakeups, keep).await;
        }
    }
    if !keep {
        reconciler.rooms.plane.detach()?;
    }
    tracing::info!("ended");
    Ok(())
}

/// Every connection takes two descriptors and every UDP session one; the soft
/// limit is often 1,024, and the hard one far higher.
fn raise_descriptor_limit(config: &Config) {
    /// Listeners, netlink, the admin endpoint, the API server.
    const OTHERS: u64 = 4096;
    let relay = &config.relay;
    let wanted = 2 * relay.max_connections.get() as u64 + relay.max_udp_sessions.get() as u64 + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: Some(limit.maximum.map_or(wanted, |most| most.min(wanted))), ..limit };
    if limit.current.is_some_and(|current| current < wanted) && setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!("cannot raise the limit of open files (RLIMIT_NOFILE)");
    }
    if let Some(most) = limit.maximum.filter(|most| *most < wanted) {
        tracing::warn!(
            most,
            wanted,
            "the hard limit of open files is lower than --max-connections and --max-udp-sessions need; more connections than that are refused (see ulimit -Hn, LimitNOFILE=)"
        );
    }
}

/// Without a packet plane the agent serves all the same, by the relay. Only a
/// link that another agent holds is no place to serve on.
async fn start_packet_plane(
    config: &Config,
    locks: LinkLocks,
    wakeups: &Wakeups,
    registry: &mut Registry,
    planes: &mut Planes,
) -> anyhow::Result<()> {
    if !config.datapath.has_packet_plane() {
        return Ok(());
    }
    let setup = PacketSetup {
        links: config.links.clone(),
        bpf_dir: config.bpf_dir.clone(),
        datapath: config.datapath,
        config: config.packet,
        drain_timeout: config.relay.drain_timeout,
    };
    match PacketPlane::open(setup, locks, wakeups.plane.clone()).await {
        Ok(plane) => {
            plane.register(registry);
            planes.start(Ok(plane));
            Ok(())
        }
        Err(error @ PacketError::Busy { .. }) => Err(error.into()),
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "no packet plane; all is relayed");
            planes.start(Err(error));
            Ok(())
        }
    }
}
