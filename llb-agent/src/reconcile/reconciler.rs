// SPDX-License-Identifier: Apache-2.0
//! The state of the loop, and the two things that all of its parts do: read
//! back what is, and send Events. What happens in a round is in `round.rs`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::conditions::Pace;
use super::dead_backends::DeadBackends;
use super::executor::Rooms;
use super::lasting::Lasting;
use super::machine::Machine;
use super::membership::Membership;
use super::metrics::ReconcileMetrics;
use super::overwrites::Overwrites;
use super::placements::Placements;
use super::problem_log::ProblemLog;
use super::progress::{Progress, Stage};
use super::reporter::Reporter;
use super::resting::Resting;
use super::standby;
use super::writes::Writes;
use crate::addresses::{AddressError, AddressTable};
use crate::config::{HealthConfig, Policy};
use crate::dataplane::DataPlane;
use crate::desired::{pods_that_need_routes, with_cluster_pools};
use crate::error_chain::ErrorChain;
use crate::health::Health;
use crate::model::{
    AddressKey, ClusterPools, Facts, MESSAGE_BYTES, Observed, Problem, ProblemReason, Role, Snapshot,
    SourceReport, State, StatusWriter, Subject, VIP_LINK, cut,
};
use crate::ownership::{Group, News};
use crate::status::{Event, StatusSink};

/// A policy that does not count yet.
#[derive(Debug)]
pub(super) struct Coming {
    policy: Policy,
    interest: u64,
    waits: Problem,
}

/// The loop.
#[derive(Debug)]
pub struct Reconciler<P, A, S> {
    /// What is changed.
    pub rooms: Rooms<P, A, S>,
    pub(super) policy: Policy,
    /// The policy as it was configured; `policy` also has the pools of the cluster.
    configured: Policy,
    cluster_pools: Option<ClusterPools>,
    /// What is wrong with the pools of the cluster.
    pub(super) pool_problem: Option<Problem>,
    /// The policy that takes its place when the source reports by the interest with this number.
    pub(super) coming: Option<Coming>,
    /// What the agent says about its configuration.
    pub(super) configuration_problems: Vec<Problem>,
    pub(super) metrics: ReconcileMetrics,
    pub(super) machine: Machine,
    pub(super) overwrites: Overwrites,
    pub(super) reporter: Reporter,
    pub(super) problem_log: ProblemLog,
    pub(super) conditions: Pace,
    /// The problems that the last round found after it had decided.
    pub(super) found_late: Vec<Problem>,
    /// The problems that are told.
    pub(super) lasting: Lasting<Problem>,
    pub(super) placements: Placements,
    pub(super) dead_backends: DeadBackends,
    pub(super) resting: Resting,
    pub(super) health: Health,
    pub(super) facts: Facts,
    /// What was decided last.
    pub(super) desired: Arc<State>,
    pub(super) stage: Stage,
    pub(super) progress: Progress,
    pub(super) writes: Writes,
    /// The VIPs that another agent of the group had published when this one became the writer, and
    /// that are not on its links.
    pub(super) inherited: BTreeSet<IpAddr>,
    /// This agent has just become the writer in place of another one.
    pub(super) inherits: bool,
    /// Which agent of the group wrote statuses in the last round.
    pub(super) writer: StatusWriter,
    /// The group of this box.
    pub(super) membership: Membership,
    /// Why the VIPs are withdrawn from routers; `None`: they are not.
    pub(super) withdrawn: Option<Problem>,
}

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// A loop that has not run yet.
    pub fn new(rooms: Rooms<P, A, S>, policy: Policy, metrics: ReconcileMetrics) -> Self {
        Self {
            rooms,
            configured: policy.clone(),
            cluster_pools: None,
            pool_problem: None,
            policy,
            coming: None,
            configuration_problems: Vec::new(),
            metrics,
            machine: Machine::default(),
            overwrites: Overwrites::default(),
            reporter: Reporter::default(),
            problem_log: ProblemLog::default(),
            conditions: Pace::default(),
            found_late: Vec::new(),
            lasting: Lasting::default(),
            placements: Placements::default(),
            dead_backends: DeadBackends::default(),
            resting: Resting::default(),
            health: Health::default(),
            facts: Facts::default(),
            desired: Arc::default(),
            stage: Stage::default(),
            progress: Progress::default(),
            writes: Writes::default(),
            inherited: BTreeSet::new(),
            inherits: false,
            writer: StatusWriter { role: Role::Pending, ..StatusWriter::default() },
            membership: Membership::default(),
            withdrawn: None,
        }
    }

    /// From now on, backends are asked whether they work.
    pub fn set_health(&mut self, health: Health) {
        self.health = health;
    }

    /// From now on keepalived decides which VIPs are on the links. `news` comes from the task that tells keepalived what
    /// is served.
    pub fn join(&mut self, group: Group, news: watch::Receiver<News>) {
        self.membership = Membership::new(group, news);
    }

    /// From the next report on that is made by the interest with this number, `policy` counts: until then, what llb
    /// is to serve may not be known as a whole. `waits` is told until then.
    pub fn set_policy(&mut self, policy: Policy, interest: u64, waits: Problem) {
        self.coming = Some(Coming { policy, interest, waits });
    }

    /// Takes the coming policy if its time is there. Returns what is to be told if it still waits.
    pub(super) fn adopt_policy(&mut self, source: &SourceReport) -> Option<Problem> {
        let coming = self.coming.take_if(|coming| coming.interest <= source.interest);
        let configured = coming.map(|coming| coming.policy).filter(|policy| self.configured != *policy);
        if configured.is_some() {
            tracing::info!("Services are served by the new configuration from now on");
        }
        self.follow_pools(configured, source);
        self.coming.as_ref().map(|coming| coming.waits.clone())
    }

    /// Puts the pools of the configuration and of the cluster together if one of them has changed.
    fn follow_pools(&mut self, configured: Option<Policy>, source: &SourceReport) {
        let snapshot = source.snapshot.as_ref();
        let of_cluster = snapshot.map_or(&self.cluster_pools, |snapshot| &snapshot.pools);
        let others = (*of_cluster != self.cluster_pools).then(|| of_cluster.clone());
        if configured.is_none() && others.is_none() {
            return;
        }
        if let Some(pools) = others {
            if let Some(ClusterPools { config_map, pools }) = &pools {
                let list = cut(pools.join(" "), MESSAGE_BYTES);
                tracing::info!(count = pools.len(), "the pools of ConfigMap {config_map} are now {list}");
            }
            self.cluster_pools = pools;
        }
        self.configured = configured.unwrap_or_else(|| self.configured.clone());
        (self.policy, self.pool_problem) = with_cluster_pools(&self.configured, self.cluster_pools.as_ref());
        self.metrics.show_cluster_pools(self.policy.pools.len() - self.configured.pools.len());
    }

    /// From now on reports have these problems, too.
    pub fn set_configuration_problems(&mut self, problems: Vec<Problem>) {
        self.configuration_problems = problems;
    }

    /// Changes how health checks are made.
    pub fn configure_health(&self, config: HealthConfig) {
        self.health.set_config(config);
    }

    /// Reads back what is. If the links can't be read, the round is [`Progress::Unreadable`].
    pub(super) async fn observe(&mut self, snapshot: &Snapshot) -> Result<Observed, Problem> {
        self.facts = match self.read_facts(snapshot).await {
            Ok(facts) => facts,
            Err(error) => {
                self.progress = Progress::Unreadable;
                return Err(Problem {
                    subject: Subject::Link("devices".to_owned()),
                    reason: ProblemReason::ActionFailed,
                    message: ErrorChain(&error).to_string(),
                });
            }
        };
        let addresses = self.facts.all_links().flat_map(|link| {
            let ours = link.addresses.iter().filter(|known| known.ours);
            ours.map(|known| {
                let key = AddressKey { link: link.name.clone(), address: known.net.addr() };
                (key, known.net.prefix_len())
            })
        });
        self.rooms.plane.advance();
        let observed = Observed {
            frontends: self.rooms.plane.observe(),
            addresses: addresses.collect(),
            statuses: self.rooms.statuses.observe(snapshot),
            conditions: self.rooms.statuses.conditions(snapshot),
            unready_links: self.rooms.plane.unready_links(),
            ..Observed::default()
        };
        Ok(observed)
    }

    async fn read_facts(&mut self, snapshot: &Snapshot) -> Result<Facts, AddressError> {
        let mut links = self.rooms.addresses.observe().await?;
        let vip_link = links.pop_if(|link| link.name == VIP_LINK);
        let pods = pods_that_need_routes(snapshot, &self.policy);
        Ok(Facts { links, vip_link, host: self.rooms.addresses.host(pods).await? })
    }

    /// Sends Events beside the loop, if this agent is the one of its group that does.
    pub(super) fn send(&self, events: impl IntoIterator<Item = Event>) {
        if self.writer.writes() {
            events.into_iter().for_each(|event| self.rooms.statuses.record(event));
        }
    }

    /// Asks which agent of the group writes now.
    pub(super) fn look_for_the_writer(&mut self, now: Instant) {
        let writer = self.rooms.statuses.writer();
        if writer.writes() && !self.writer.writes() {
            // What another agent had until now may be free.
            self.machine.retry_now(now);
            // Also after a restart: another agent may have taken VIPs meanwhile.
            self.inherits |= writer.role == Role::Elected;
        }
        self.metrics.writer.set(i64::from(writer.writes()));
        self.writer = writer;
    }

    /// Remembers what the former writer of the group has published, until it is on a link of this machine.
    pub(super) fn inherit(&mut self, observed: &Observed) {
        if std::mem::take(&mut self.inherits) {
            self.inherited = standby::published(observed);
        }
        self.inherited.retain(|vip| observed.addresses.keys().all(|key| key.address != *vip));
    }
}
