// SPDX-License-Identifier: Apache-2.0
//! The loop: take everything that is known, compute what should be, plan, act,
//! look again, until nothing is left to do.
//!
//! One task. Inputs: the source's watch channel, two wake-ups (data plane,
//! links), finished status writes, timers, and the stop signal. Output: the
//! rooms are changed, and a [`Report`] goes to the admin endpoint.
//!
//! Invariants: nothing is decided before the first whole snapshot; a source
//! that is away changes nothing; every round starts from what was read back.

mod executor;
mod machine;
mod metrics;
mod placements;
mod reporter;
#[cfg(test)]
mod tests;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::addresses::AddressTable;
use crate::config::Policy;
use crate::dataplane::DataPlane;
use crate::desired::{self, Held, Inputs};
use crate::model::{
    AddressKey, Facts, Mac, Observed, PlanesState, Problem, ProblemReason, PublishedStatus, ServiceName,
    Snapshot, SourceReport, State, Subject,
};
use crate::plan::{self, Action, ActionKey};
use crate::status::{Effect, Event, StatusSink};
pub use executor::{Failed, Outcome, Rooms};
use machine::Machine;
pub use machine::{FIRST_RETRY, LAST_RETRY};
pub use metrics::ReconcileMetrics;
use placements::Placements;
use reporter::Reporter;
use writes::Writes;

/// Links and addresses are read again at least this often, whatever the kernel announced.
pub const RESYNC: Duration = Duration::from_secs(30);

/// Passes of plan and act within one round. Three are the longest chain
/// (frontend, address, status); more means that something changes under us,
/// which the next round sees.
const PASSES: u32 = 8;

/// Actions of one round; the next one takes the others at once. Between rounds
/// the loop looks at the stop signal and at what changed, and an action on a
/// link takes some 0.3 ms, at most 1, so that neither waits for more than 0.3 s. What
/// ends later is not counted: it takes no time here.
pub const ACTIONS: usize = 300;

/// For status writes under way when another agent takes over. A disk and an API
/// server that are well take far less.
const WRITES_LIMIT: Duration = Duration::from_secs(2);

/// Rounds in a row that an ending agent makes without getting on, [`FIRST_RETRY`]
/// apart: a busy kernel answers within that, and a service manager waits longer.
const LAST_TRIES: u32 = 10;

/// What the admin endpoint shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// All that a first whole snapshot asked for was done, or tried.
    pub ready: bool,
    /// What should be.
    pub desired: Arc<State>,
    /// What is.
    pub observed: Observed,
    /// This machine.
    pub facts: Facts,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// How the planes are.
    pub planes: PlanesState,
}

/// The loop's state.
#[derive(Debug)]
pub struct Reconciler<P, A, S> {
    /// What is changed.
    pub rooms: Rooms<P, A, S>,
    policy: Policy,
    metrics: ReconcileMetrics,
    machine: Machine,
    reporter: Reporter,
    placements: Placements,
    facts: Facts,
    desired: Arc<State>,
    /// See [`Report::ready`].
    ready: bool,
    /// What other hosts or agents see is not changed.
    frontends_only: bool,
    /// The last round was not finished; the next one is wanted after this time.
    unfinished: Option<Duration>,
    /// The first action of the last round, if [`ACTIONS`] cut that short.
    cut_short: Option<Action>,
    /// What the statuses said when the round began ...
    published: BTreeMap<ServiceName, PublishedStatus>,
    /// ... and, of those that are being written, when the write began.
    replaced: BTreeMap<ServiceName, PublishedStatus>,
    /// Status writes under way, and those that ended since the last round.
    writes: Writes,
    ended: Vec<Outcome>,
    /// Events under way.
    telling: JoinSet<()>,
}

/// What wakes the loop up.
#[derive(Debug)]
pub struct Wakeups {
    /// The data plane changed by itself: a drain ended.
    pub plane: Arc<tokio::sync::Notify>,
    /// Links or addresses changed.
    pub links: Arc<tokio::sync::Notify>,
}

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// Ready to run.
    pub fn new(rooms: Rooms<P, A, S>, policy: Policy, metrics: ReconcileMetrics) -> Self {
        Self {
            rooms,
            policy,
            metrics,
            machine: Machine::default(),
            reporter: Reporter::default(),
            placements: Placements::default(),
            facts: Facts::default(),
            desired: Arc::default(),
            ready: false,
            frontends_only: false,
            unfinished: None,
            cut_short: None,
            published: BTreeMap::new(),
            replaced: BTreeMap::new(),
            writes: Writes::default(),
            ended: Vec::new(),
            telling: JoinSet::new(),
        }
    }

    /// Runs until `stop` resolves, and gives what that gave; may run again
    /// then. Cancel safe at every await of the `select!`: each arm only wakes
    /// the round, which reads everything anew.
    pub async fn run<T>(
        &mut self,
        source: &mut watch::Receiver<SourceReport>,
        wakeups: &Wakeups,
        report: &watch::Sender<Report>,
        stop: impl Future<Output = T>,
    ) -> T {
        let mut stop = std::pin::pin!(stop);
        loop {
            let current = source.borrow_and_update().clone();
            let now = Instant::now();
            report.send_replace(self.round(&current, now).await);
            let wait = self.time_until_due(now);
            tokio::select! {
                // The stop signal goes before all that there is to do.
                biased;
                stopped = &mut stop => return stopped,
                Ok(()) = source.changed() => {}
                () = wakeups.plane.notified() => {}
                () = wakeups.links.notified() => {}
                Some(ended) = self.writes.next() => self.ended.push(ended),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One round: decide once, then plan and act until nothing is due.
    /// `now` is what retries are measured by.
    pub async fn round(&mut self, source: &SourceReport, now: Instant) -> Report {
        let mut report = Report { problems: source.problems.clone(), ..Report::default() };
        let Some(snapshot) = source.snapshot.clone() else { return report };
        self.metrics.rounds.inc();
        self.machine.resume_addresses();
        self.collect_ended(&snapshot, now);
        let observed = match self.observe(&snapshot).await {
            Ok(observed) => observed,
            Err(problem) => {
                report.problems.push(problem);
                self.unfinished = Some(FIRST_RETRY);
                return Report { ready: self.ready, desired: self.desired.clone(), ..report };
            }
        };
        self.published = observed.statuses.clone();
        let held = self.held(&observed);
        let inputs = Inputs { snapshot: &snapshot, facts: &self.facts, policy: &self.policy, held: &held };
        let (desired, found) = desired::compile(inputs);
        let before = std::mem::replace(&mut self.desired, Arc::new(desired));
        self.tell_ended(&before, &snapshot);
        report.problems.extend(found);

        report.observed = self.settle(observed, &snapshot, now, &mut report.problems).await;
        report.problems.extend(self.machine.problems(|key| self.owners(key)));
        report.problems.extend(self.conflicts());
        for event in self.reporter.problems(&report.problems, &snapshot, now) {
            self.tell(event);
        }
        self.metrics.show(&self.desired, &report.problems);
        self.ready |= self.unfinished.is_none();
        for event in self.placements.changed(&report.observed, &snapshot) {
            self.tell(event);
        }
        report.planes = self.rooms.plane.describe();
        Report { ready: self.ready, desired: self.desired.clone(), facts: self.facts.clone(), ..report }
    }

    /// Ends everything: no new traffic, old connections may finish until the
    /// plane's drain time-out, then the addresses go. With `keep_packets`, what the
    /// packet plane serves stays, with its addresses. Statuses stay: they are
    /// the record by which the next start gives each Service its VIP again.
    /// If the kernel does not even say what is there, it gives up after
    /// `LAST_TRIES`, and what is left stays for the next start.
    pub async fn shut_down(&mut self, wakeups: &Wakeups, keep_packets: bool) {
        let kept = match keep_packets {
            true => placements::served_by_packets(self.rooms.plane.observe(), &self.facts),
            false => State::default(),
        };
        self.desired = Arc::new(kept);
        let nothing = Snapshot::default();
        let mut tries = LAST_TRIES;
        loop {
            let now = Instant::now();
            self.machine.resume_addresses();
            match self.observe(&nothing).await {
                Ok(observed) => {
                    let observed = self.settle(observed, &nothing, now, &mut Vec::new()).await;
                    let mut served = observed.frontends.keys();
                    if served.all(|frontend| self.desired.has(frontend)) && self.unfinished.is_none() {
                        return;
                    }
                }
                Err(problem) => {
                    tracing::warn!(%problem, "cannot end yet");
                    self.unfinished = Some(FIRST_RETRY);
                }
            }
            tries = if self.unfinished == Some(FIRST_RETRY) { tries - 1 } else { LAST_TRIES };
            if tries == 0 {
                tracing::error!("giving up: the next start takes the addresses off the links that are left");
                return;
            }
            let wait = self.time_until_due(now);
            tokio::select! {
                () = wakeups.plane.notified(), if self.unfinished.is_none() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Serves all that the whole snapshot in `source` asks for, or has tried
    /// to, and touches neither addresses nor statuses: while another agent is
    /// still in charge of those. Afterwards [`Reconciler::run`] does the rest.
    pub async fn serve_frontends(&mut self, source: &SourceReport) {
        self.frontends_only = true;
        while !self.round(source, Instant::now()).await.ready {
            tokio::time::sleep(self.unfinished.unwrap_or(FIRST_RETRY)).await;
        }
        (self.frontends_only, self.ready) = (false, false);
    }

    /// Waits for the status writes under way, so that nobody's later one is
    /// overwritten by them. What takes longer than `WRITES_LIMIT` is on its
    /// way to an API server, which refuses it if the Service has changed since.
    pub async fn pause(&mut self) {
        let all = async {
            while let Some(ended) = self.writes.next().await {
                self.ended.push(ended);
            }
        };
        if tokio::time::timeout(WRITES_LIMIT, all).await.is_err() {
            tracing::warn!("status writes are still under way");
        }
    }

    /// Until a retry is due, or everything is to be read again.
    fn time_until_due(&self, now: Instant) -> Duration {
        let retry = self.machine.next_retry().map(|due| due.saturating_duration_since(now));
        retry.unwrap_or(RESYNC).min(self.unfinished.unwrap_or(RESYNC))
    }

    async fn settle(
        &mut self,
        mut observed: Observed,
        snapshot: &Snapshot,
        now: Instant,
        problems: &mut Vec<Problem>,
    ) -> Observed {
        let (mut left, mut first) = (ACTIONS, None);
        let before = self.cut_short.take();
        self.unfinished = None;
        for _ in 0..PASSES {
            let due = self.machine.due(plan::plan(&self.desired, &observed), now);
            let mut due = plan::hold_statuses(due, self.machine.in_flight(), &self.desired);
            due.retain(|action| !self.frontends_only || matches!(action, Action::UpsertFrontend { .. }));
            if due.is_empty() {
                break;
            }
            let coming: Vec<(&AddressKey, u8)> = due.iter().filter_map(Action::added_address).collect();
            if !coming.is_empty() {
                self.rooms.addresses.prepare(&coming, left).await;
            }
            for action in due {
                let shown = first.is_none().then(|| action.clone());
                if self.act(action, snapshot, now).await {
                    left -= 1;
                    first = first.or(shown);
                }
                if left == 0 {
                    break;
                }
            }
            match self.observe(snapshot).await {
                Ok(read) => observed = read,
                Err(problem) => {
                    problems.push(problem);
                    self.unfinished = Some(FIRST_RETRY);
                    break;
                }
            }
            if left == 0 {
                // The same again, although it was done: something changes under us.
                self.unfinished = Some(if first == before { FIRST_RETRY } else { Duration::ZERO });
                self.cut_short = first;
                break;
            }
        }
        observed
    }

    /// True if the action has ended; false if it ends later.
    async fn act(&mut self, action: Action, snapshot: &Snapshot, now: Instant) -> bool {
        let key = action.key();
        match self.rooms.execute(action, snapshot, &mut self.writes).await {
            Some(outcome) => {
                self.note(outcome, snapshot, now);
                true
            }
            None => {
                if let ActionKey::Status(service) = &key {
                    let before = self.published.get(service).cloned().unwrap_or_default();
                    self.replaced.insert(service.clone(), before);
                }
                self.machine.started(key);
                false
            }
        }
    }

    fn collect_ended(&mut self, snapshot: &Snapshot, now: Instant) {
        while let Some(outcome) = self.ended.pop().or_else(|| self.writes.try_next()) {
            self.note(outcome, snapshot, now);
        }
    }

    /// Books how an action ended.
    fn note(&mut self, (action, result): Outcome, snapshot: &Snapshot, now: Instant) {
        self.metrics.count(&action, result.is_ok());
        let before = match &action {
            Action::WriteStatus { service, .. } => self.replaced.remove(service),
            _ => None,
        };
        match result {
            Ok(Effect::Gone) => {
                tracing::info!(action = %action, "the Service is gone");
                self.machine.succeeded(&action.key());
            }
            Ok(Effect::Done) => {
                tracing::info!(action = %action, "done");
                self.machine.succeeded(&action.key());
                if let Action::WriteStatus { service, status } = &action {
                    let uid = snapshot.services.get(service).map_or("", |known| known.uid.as_str());
                    if let Some(event) = Reporter::written(service, uid, &before.unwrap_or_default(), status)
                    {
                        self.tell(event);
                    }
                }
            }
            Err(why) => {
                let shown = action.to_string();
                if self.machine.failed(action, why.clone(), now) {
                    tracing::warn!(action = shown, error = why.message, "failed; it is tried again");
                }
            }
        }
    }

    /// A Service whose type changed has lost its status already: the API server
    /// clears it itself, so no write of ours tells the user.
    fn tell_ended(&mut self, before: &State, snapshot: &Snapshot) {
        for (name, status) in &before.statuses {
            let Some(service) = snapshot.services.get(name) else { continue };
            let is_empty = |statuses: &BTreeMap<ServiceName, PublishedStatus>| {
                statuses.get(name).is_none_or(|status| status.vips.is_empty())
            };
            if is_empty(&self.desired.statuses)
                && is_empty(&self.published)
                && let Some(event) =
                    Reporter::written(name, &service.uid, status, &PublishedStatus::default())
            {
                self.tell(event);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let statuses = self.rooms.statuses.clone();
        self.telling.spawn(async move { statuses.record(event).await });
        while self.telling.try_join_next().is_some() {}
    }

    async fn observe(&mut self, snapshot: &Snapshot) -> Result<Observed, Problem> {
        let links = self.rooms.addresses.observe().await.map_err(|error| Problem {
            subject: Subject::Link("devices".to_owned()),
            reason: ProblemReason::ActionFailed,
            message: error.to_string(),
        })?;
        let addresses = links.iter().flat_map(|link| {
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
        };
        self.facts = Facts { links };
        Ok(observed)
    }

    /// What was decided last counts before what is published: the write may be
    /// under way.
    fn held(&self, observed: &Observed) -> Held {
        let known = observed.statuses.iter().chain(&self.desired.statuses);
        known
            .filter(|(_, status)| !status.vips.is_empty())
            .map(|(name, status)| (name.clone(), status.clone()))
            .collect()
    }

    /// VIPs that are served here, and claimed by another host too.
    fn conflicts(&self) -> Vec<Problem> {
        let of_address = |(key, mac): (AddressKey, Mac)| {
            let message = format!(
                "{key} is claimed by another host too ({mac}), so clients reach one or the other; take it from one of them"
            );
            let owners = self.owners(&ActionKey::Address(key));
            owners
                .into_iter()
                .map(move |name| Problem::of_service(&name, ProblemReason::VipConflict, message.clone()))
        };
        self.rooms.addresses.conflicts().into_iter().flat_map(of_address).collect()
    }

    /// For whom an object is.
    fn owners(&self, key: &ActionKey) -> BTreeSet<ServiceName> {
        match key {
            ActionKey::Frontend(frontend) => {
                self.desired.frontends.get(frontend).map(|rule| rule.service.clone()).into_iter().collect()
            }
            ActionKey::Address(key) => {
                let on_vip =
                    self.desired.frontends.iter().filter(|(frontend, _)| frontend.vip == key.address);
                on_vip.map(|(_, rule)| rule.service.clone()).collect()
            }
            ActionKey::Status(service) => BTreeSet::from([service.clone()]),
        }
    }
}
