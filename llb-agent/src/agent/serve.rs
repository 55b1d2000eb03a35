// SPDX-License-Identifier: Apache-2.0
//! The life of a serving agent: start, serve, end.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::end::{leave, shut_down};
use super::handed_over::hand_over;
use super::locks::look_for_others;
use super::objects::{Objects, StartingPoint};
use super::service_manager;
use super::signals::Signals;
use super::start::{Serving, start};
use crate::admin::AdminSocket;
use crate::clock;
use crate::config::{
    BackendMode, Config, Policy, SourceConfig, kubeconfig_variable, proxy_variables, search_path,
};
use crate::desired;
use crate::handover::{Successors, Takeover};
use crate::source::{
    Interest, KubernetesSource, ManifestSource, ProxyVariables, SavedSnapshots, Variables, connect,
};
use crate::status::StatusSink;
use crate::status::file::FileStatuses;
use crate::status::kubernetes::KubernetesStatuses;

/// Serves until SIGTERM or SIGINT, or until another agent has taken over. Old
/// connections may then end until the drain time-out; a second signal ends them at once.
///
/// # Errors
/// Something that the agent can't do without is missing; the text says what.
pub(super) async fn serve(config: Config, admin_socket: Option<AdminSocket>) -> anyhow::Result<()> {
    let others = look_for_others(&config).await?;

    match config.source.clone() {
        SourceConfig::Manifests(path) => {
            let source = ManifestSource::start(&path, config.policy.foreign_annotations)?;
            let mut objects = Objects::follow(|out| source.run(out));
            let starting_point = objects.starting_point(&config, others).await?;
            let statuses = FileStatuses::open(&config.state_dir);
            live(config, starting_point, objects, statuses, admin_socket).await
        }
        SourceConfig::Kubernetes { kubeconfig, context, lease } => {
            let (https, http, no) = proxy_variables();
            let proxies = ProxyVariables { https, http, no };
            let variables = Variables { kubeconfig: kubeconfig_variable(), path: search_path(), proxies };
            let cluster = connect(kubeconfig.as_ref(), context, variables).await?;
            tracing::info!(url = cluster.url(), "watching the cluster");
            let (in_charge, is_in_charge) = watch::channel(false);
            let saved = SavedSnapshots::new(&config.state_dir, cluster.identity(), is_in_charge);
            let source = KubernetesSource::start(&cluster, interest(&config.policy), saved);
            let mut api_servers = source.api_servers();
            let mut objects = Objects::follow(|out| source.run(out));
            objects.in_charge = Some(in_charge);
            // It fails only if the source has ended, which the source reports.
            let _ = api_servers.changed().await;
            objects.api_servers = api_servers;
            objects.connections = cluster.connections;
            let starting_point = objects.starting_point(&config, others).await?;
            let statuses = KubernetesStatuses::start(cluster.client, lease, &config.state_dir);
            live(config, starting_point, objects, statuses, admin_socket).await
        }
    }
}

/// What of a cluster the source has to look at.
fn interest(policy: &Policy) -> Interest {
    let decides = policy.clone();
    Interest {
        namespaces: policy.namespaces.clone(),
        foreign_annotations: policy.foreign_annotations,
        needs_nodes: policy.backends != BackendMode::Endpoints,
        is_ours: Arc::new(move |name, service| desired::is_ours(&decides, name, service)),
    }
}

/// Start, serve, end.
async fn live<S: StatusSink>(
    config: Config,
    starting_point: StartingPoint,
    objects: Objects,
    statuses: S,
    admin_socket: Option<AdminSocket>,
) -> anyhow::Result<()> {
    let Some(mut serving) = start(config, starting_point, objects, statuses, admin_socket).await? else {
        return Ok(());
    };
    let end = serving.until_the_end().await;
    let Serving { config, objects, reconciler, wakeups, signals, successors, locks, admin, told, .. } =
        serving;
    drop(told);
    match end {
        End::Stopped => {
            service_manager::say("ending: open connections may end until the drain time-out");
            drop(successors);
            shut_down(reconciler, &wakeups, signals, &config).await
        }
        End::HandedOver => {
            locks.agent.release();
            drop((objects, successors, locks, admin));
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
}

impl<S: StatusSink> Serving<S> {
    /// Runs the loop until a signal comes or another agent has taken over. If
    /// new agents are waiting when the signal comes, they get the drain time-out
    /// to take over.
    async fn until_the_end(&mut self) -> End {
        // Set by the first signal.
        let mut deadline = None;
        loop {
            let interruption = interruption(&mut self.successors, &mut self.signals, deadline);
            let received = &mut self.objects.received;
            match self.reconciler.run(received, &self.wakeups, &self.report, interruption).await {
                Interruption::Stop if deadline.is_none() && self.successors.is_any_waiting() => {
                    tracing::info!("a new agent is waiting; ending when it has taken over");
                    deadline = Some(clock::now() + self.config.relay.drain_timeout);
                }
                Interruption::Stop => return End::Stopped,
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

/// Waits until a signal comes or a new agent wants to take over. With a
/// `deadline`, a signal has come already: then this waits for the new agents
/// that are there, but no longer than that.
async fn interruption(
    successors: &mut Successors,
    signals: &mut Signals,
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
    }
}
