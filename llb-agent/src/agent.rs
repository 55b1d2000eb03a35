//! Builds every room, wires them, and ends them in order. Decides nothing else.

use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::addresses::{AddressTable, NetlinkAddresses, link_names};
use crate::admin;
use crate::config::{Cli, Config, Invocation, SourceConfig, kubeconfig_variable};
use crate::dataplane::packet::{self, PacketError, PacketObserver};
use crate::dataplane::proxy::ProxyPlane;
use crate::kernel::{Cap, KernelAbilities, missing_capabilities};
use crate::model::{Problem, ProblemReason, SourceReport, Subject};
use crate::reconcile::{ReconcileMetrics, Reconciler, Report, Rooms, Wakeups};
use crate::source::{KubernetesSource, ManifestSource, SavedSnapshots, connect};
use crate::statefile;
use crate::status::StatusSink;
use crate::status::file::FileStatuses;
use crate::status::kubernetes::KubernetesStatuses;

/// Does what the command line says.
///
/// # Errors
/// The agent could not start; the text says why, and the way out.
pub fn main(cli: Cli) -> anyhow::Result<()> {
    match cli.invocation()? {
        Invocation::Detach { bpf_dir } => {
            let links = packet::detach(&bpf_dir)?;
            tracing::info!(?links, "detached");
            Ok(())
        }
        Invocation::Serve(config) => {
            let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
            runtime.block_on(run(*config))
        }
    }
}

/// Runs until SIGTERM or SIGINT; old connections get the drain time-out, a
/// second signal ends them at once.
///
/// # Errors
/// Something that the agent can't do without is missing; the text says what.
async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), links = ?config.links, "llb-agent starts");
    let abilities = KernelAbilities::probe();
    tracing::info!("{abilities}");
    check_capabilities(&config)?;
    let _lock = statefile::lock(&config.state_dir)
        .with_context(|| format!("cannot hold --state-dir {}", config.state_dir.display()))?;

    let wakeups = Wakeups { plane: Arc::new(Notify::new()), links: Arc::new(Notify::new()) };
    let mut addresses = NetlinkAddresses::new(
        config.links.clone(),
        config.address_tag,
        config.state_dir.clone(),
        wakeups.links.clone(),
    )?;
    check_links(&config, &mut addresses).await?;

    match config.source.clone() {
        SourceConfig::Manifests(path) => {
            let source = ManifestSource::start(&path)?;
            let statuses = FileStatuses::open(&config.state_dir);
            serve(config, addresses, statuses, wakeups, |out| source.run(out)).await
        }
        SourceConfig::Kubernetes { kubeconfig, context } => {
            let cluster = connect(kubeconfig.as_ref(), context, kubeconfig_variable()).await?;
            tracing::info!(url = cluster.url, "watching the cluster");
            let saved = SavedSnapshots::new(&config.state_dir, cluster.identity);
            let source = KubernetesSource::start(&cluster.client, &config.policy.namespaces, saved);
            let statuses = KubernetesStatuses::new(cluster.client);
            serve(config, addresses, statuses, wakeups, |out| source.run(out)).await
        }
    }
}

/// All at once, so that nobody has to find them one by one.
fn check_capabilities(config: &Config) -> anyhow::Result<()> {
    let mut wanted = vec![Cap::NetAdmin, Cap::NetBindService];
    if !config.userspace {
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

async fn serve<S, F>(
    config: Config,
    addresses: NetlinkAddresses,
    statuses: S,
    wakeups: Wakeups,
    source: impl FnOnce(watch::Sender<SourceReport>) -> F,
) -> anyhow::Result<()>
where
    S: StatusSink,
    F: Future<Output = ()> + Send + 'static,
{
    let mut registry = Registry::default();
    let plane = ProxyPlane::new(config.relay, &mut registry, wakeups.plane.clone())
        .context("cannot start the relay's threads")?;
    let metrics = ReconcileMetrics::register(&mut registry);
    let observer = observe_packets(&config, &mut registry)?;

    raise_descriptor_limit(&config);

    let (snapshots, received) = watch::channel(SourceReport::default());
    let (report, shown) = watch::channel(Report::default());
    let bound = admin::serve(config.admin, shown, registry).await?;
    tracing::info!(address = %bound, "admin endpoint: /healthz /readyz /metrics /state");
    tokio::spawn(tell_end(tokio::spawn(source(snapshots.clone())), snapshots));

    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut stop = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let mut reconciler = Reconciler::new(Rooms { plane, addresses, statuses }, config.policy, metrics);
    reconciler.run(received, &wakeups, report, stop()).await;

    tracing::info!(limit = ?config.relay.drain_timeout, "ending: no new connections; a second signal ends the old ones at once");
    tokio::select! {
        () = reconciler.shut_down(&wakeups) => {}
        () = stop() => {
            tracing::warn!("second signal: ending all connections now");
            reconciler.rooms.plane.abort();
            reconciler.shut_down(&wakeups).await;
        }
    }
    if let Some(observer) = observer {
        observer.detach()?;
    }
    tracing::info!("ended");
    Ok(())
}

/// A source that ends by itself is a defect. What is served stays as it is,
/// and the problem says so: an agent that ended instead would drop traffic that
/// is fine, and might do so after each start.
async fn tell_end(source: JoinHandle<()>, reports: watch::Sender<SourceReport>) {
    let ended = source.await;
    if reports.is_closed() {
        return;
    }
    let why = ended.err().map(|error| format!(": {error}")).unwrap_or_default();
    let message = format!(
        "the source of objects ended{why}; what is served stays as it is, and follows no change any more: restart llb-agent"
    );
    tracing::error!("{message}");
    let subject = Subject::Source("llb-agent".to_owned());
    let problem = Problem { subject, reason: ProblemReason::SourceUnavailable, message };
    reports.send_modify(|report| report.problems.push(problem));
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

/// Without the packet programs the agent serves all the same, in user space.
/// Only a link that another agent holds is no place to serve on.
fn observe_packets(config: &Config, registry: &mut Registry) -> anyhow::Result<Option<Arc<PacketObserver>>> {
    if config.userspace {
        return Ok(None);
    }
    match PacketObserver::attach(&config.links, &config.bpf_dir) {
        Ok(observer) => {
            let observer = Arc::new(observer);
            observer.register(registry);
            Ok(Some(observer))
        }
        Err(error @ PacketError::Busy { .. }) => Err(error.into()),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(error, "no packet programs on the links; serving in user space only");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_that_ends_is_a_problem() {
        let (reports, mut received) = watch::channel(SourceReport::default());
        tokio::spawn(tell_end(tokio::spawn(async { panic!("on purpose") }), reports));
        let report = received.wait_for(|report| !report.problems.is_empty()).await.unwrap();
        assert!(report.problems[0].message.contains("on purpose"), "{:?}", report.problems);
    }
}
