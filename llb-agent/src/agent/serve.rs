// SPDX-License-Identifier: Apache-2.0
//! The life of a serving agent: start, serve, end.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::end::{leave, shut_down};
use super::group::until_no_share_is_here;
use super::handed_over::hand_over;
use super::locks::look_for_others;
use super::objects::{Objects, StartingPoint};
use super::reload::{Outcome, Reloads};
use super::service_manager;
use super::signals::Signals;
use super::start::{Serving, start};
use crate::admin::AdminSocket;
use crate::clock;
use crate::config::{
    AtStop, BackendMode, ConfigMapName, Configured, Policy, SourceConfig, kubeconfig_variable, pools_of,
    proxy_variables, search_path,
};
use crate::desired;
use crate::handover::{Successors, Takeover};
use crate::source::{
    Interest, KubernetesSource, ManifestSource, PoolMap, ProxyVariables, SavedSnapshots, Variables, connect,
};
use crate::status::StatusSink;
use crate::status::file::FileStatuses;
use crate::status::kubernetes::KubernetesStatuses;

/// Serves until SIGTERM or SIGINT, or until another agent has taken over. Old
/// connections may then end until the drain time-out; a second signal ends them at once.
///
/// # Errors
/// Something that the agent can't do without is missing; the text says what.
pub(super) async fn serve(configured: Configured, admin_socket: Option<AdminSocket>) -> anyhow::Result<()> {
    // Before anything else: from here on, SIGHUP does not end the process.
    let reloads = Reloads::listen(&configured)?;
    let config = configured.config.clone();
    let others = look_for_others(&config).await?;

    match config.source.clone() {
        SourceConfig::Manifests(path) => {
            let (wanted, interest) = watch::channel(interest(&config.policy, 0, None));
            let source = ManifestSource::start(&path, interest)?;
            let mut objects = Objects::follow(wanted, |out| source.run(out));
            let starting_point = objects.starting_point(&config, others).await?;
            let statuses = FileStatuses::open(&config.state_dir);
            live(configured, reloads, starting_point, objects, statuses, admin_socket).await
        }
        SourceConfig::Kubernetes { kubeconfig, context, lease, config_map } => {
            let (https, http, no) = proxy_variables();
            let proxies = ProxyVariables { https, http, no };
            let variables = Variables { kubeconfig: kubeconfig_variable(), path: search_path(), proxies };
            let cluster = connect(kubeconfig.as_ref(), context, variables).await?;
            tracing::info!(url = cluster.url(), "watching the cluster");
            let (in_charge, is_in_charge) = watch::channel(false);
            let saved = SavedSnapshots::new(&config.state_dir, cluster.identity(), is_in_charge);
            let pools = config_map.map(pool_map);
            let (wanted, interest) = watch::channel(interest(&config.policy, 0, pools));
            let source = KubernetesSource::start(&cluster, interest, saved);
            let mut api_servers = source.api_servers();
            let mut objects = Objects::follow(wanted, |out| source.run(out));
            objects.in_charge = Some(in_charge);
            // It fails only if the source has ended, which the source reports.
            let _ = api_servers.changed().await;
            objects.api_servers = api_servers;
            objects.connections = cluster.connections;
            let starting_point = objects.starting_point(&config, others).await?;
            let statuses = KubernetesStatuses::start(cluster.client, lease, &config.state_dir);
            live(configured, reloads, starting_point, objects, statuses, admin_socket).await
        }
    }
}

/// What of the objects the source has to look at.
pub(super) fn interest(policy: &Policy, number: u64, pools: Option<PoolMap>) -> Interest {
    let decides = policy.clone();
    Interest {
        number,
        namespaces: policy.namespaces.clone(),
        foreign_annotations: policy.foreign_annotations,
        needs_nodes: policy.backends != BackendMode::Endpoints,
        is_ours: Arc::new(move |name, service| desired::is_ours(&decides, name, service)),
        pools,
    }
}

/// Where further pools are, and how they are read.
pub(super) fn pool_map(ConfigMapName { namespace, name }: ConfigMapName) -> PoolMap {
    let parse = |text: &str, key: &str| pools_of(text, key).map_err(|error| error.to_string());
    PoolMap { namespace, name, parse: Arc::new(parse) }
}

/// Start, serve, end.
async fn live<S: StatusSink>(
    configured: Configured,
    reloads: Reloads,
    starting_point: StartingPoint,
    objects: Objects,
    statuses: S,
    admin_socket: Option<AdminSocket>,
) -> anyhow::Result<()> {
    let started = start(configured, reloads, starting_point, objects, statuses, admin_socket).await?;
    let Some(mut serving) = started else { return Ok(()) };
    let end = serving.until_the_end().await;
    if matches!(end, End::Stopped) {
        serving.give_shares_away().await;
    }
    let Serving {
        configured,
        objects,
        reconciler,
        wakeups,
        signals,
        successors,
        locks,
        admin,
        mut peers,
        report,
        told,
        ..
    } = serving;
    drop(told);
    let config = configured.config;
    match end {
        End::Stopped => {
            service_manager::say("ending: open connections may end until the drain time-out");
            drop(successors);
            let keep = config.packet.at_stop == AtStop::Keep;
            if let Some(peers) = &mut peers {
                let report = report.borrow().clone();
                peers.leave(&report, keep).await;
            }
            shut_down(reconciler, &wakeups, signals, &config).await?;
            if let Some(peers) = peers.filter(|_| !keep) {
                peers.left();
            }
            Ok(())
        }
        End::HandedOver => {
            locks.agent.release();
            drop((objects, successors, locks, admin, peers));
            leave(reconciler, &wakeups, signals, config.after_handover).await;
            Ok(())
        }
    }
}

/// Why an agent serves no longer.
enum End {
    /// A signal came.
    Stopped,
    /// Another agent is in charge.
    HandedOver,
}

/// Why the loop pauses.
enum Interruption {
    Stop,
    HandOver(Takeover),
    Reload(Arc<Outcome>),
}

impl<S: StatusSink> Serving<S> {
    /// Runs the loop until a signal comes or another agent has taken over. If
    /// new agents are waiting when the signal comes, they get the drain time-out
    /// to take over.
    async fn until_the_end(&mut self) -> End {
        // Set by the first signal.
        let mut deadline = None;
        loop {
            let interruption =
                interruption(&mut self.successors, &mut self.signals, &mut self.reloads, deadline);
            let received = &mut self.objects.received;
            match self.reconciler.run(received, &self.wakeups, &self.report, interruption).await {
                Interruption::Stop if deadline.is_none() && self.successors.is_any_waiting() => {
                    tracing::info!("a new agent is waiting; ending when it has taken over");
                    deadline = Some(clock::now() + self.configured.config.relay.drain_timeout);
                }
                Interruption::Stop => return End::Stopped,
                Interruption::Reload(outcome) => self.reconfigure(&outcome),
                Interruption::HandOver(takeover) => {
                    self.reconciler.pause().await;
                    let planes = &self.reconciler.rooms.plane;
                    match hand_over(takeover, planes, self.admin.tcp.as_ref(), &self.locks).await {
                        Ok(()) => return End::HandedOver,
                        Err(error) => tracing::warn!("not handed over; this agent continues: {error:#}"),
                    }
                }
            }
        }
    }
}

impl<S: StatusSink> Serving<S> {
    /// For an agent of a group that leaves nothing behind when it ends. The other boxes get its shares first, while it still
    /// serves. A second signal ends the wait.
    async fn give_shares_away(&mut self) {
        let leaves = self.configured.config.packet.at_stop == AtStop::Remove;
        let Some(peers) = self.peers.as_ref().filter(|_| leaves) else { return };
        tracing::info!("ending: the other boxes of the group get the shares of this one");
        let limit = peers.give_away();
        let over = async {
            tokio::select! {
                () = until_no_share_is_here(self.report.subscribe()) => {}
                () = self.signals.stop() => {}
                () = tokio::time::sleep(limit) => {
                    tracing::warn!(?limit, "no other box has taken the shares that are still here");
                }
            }
        };
        self.reconciler.run(&mut self.objects.received, &self.wakeups, &self.report, over).await;
    }
}

/// Waits until a signal comes, a new agent wants to take over, or the configuration was read again. With a
/// `deadline`, a signal has come already: then this waits for the new agents
/// that are there, but no longer than that.
async fn interruption(
    successors: &mut Successors,
    signals: &mut Signals,
    reloads: &mut Reloads,
    deadline: Option<Instant>,
) -> Interruption {
    let none_waiting = successors.none_waiting();
    let over = async {
        match deadline {
            None => std::future::pending().await,
            // Either way the wait is over.
            Some(deadline) => drop(tokio::time::timeout_at(deadline, none_waiting).await),
        }
    };
    tokio::select! {
        biased;
        takeover = successors.next() => Interruption::HandOver(takeover),
        () = signals.stop() => Interruption::Stop,
        () = over => Interruption::Stop,
        outcome = reloads.next() => Interruption::Reload(outcome),
    }
}
