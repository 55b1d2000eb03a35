// SPDX-License-Identifier: Apache-2.0
//! The Lease by which the agents of one group agree on the one that writes statuses and Events.
//!
//! ```text
//!   election.rs   who has the Lease: pure
//!   identity.rs   the name of this agent, the same after a restart
//!   mod.rs        the task that looks at the Lease, takes it and renews it
//! ```
//!
//! Only writes depend on it: an agent that loses the Lease, or cannot reach the API server, serves
//! what it serves. An agent gives nothing back when it ends: a restart takes less time than the
//! Lease is valid, and another writer might publish other addresses for that moment.

mod election;
mod identity;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Notify;

use self::election::{Answer, DURATION, Election, LOOK_EVERY, RENEW_EVERY, Record, Turn};
pub(super) use self::identity::identity;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::kube_error::KubeError;
use crate::model::{LeaseName, MESSAGE_BYTES, Problem, ProblemReason, Role, StatusWriter, Subject, cut};

/// A request is given up after this time. Two of them fit before the holder no longer counts on
/// the Lease.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Another agent has just written it: a moment later, its answer is there.
const AGAIN: Duration = Duration::from_millis(200);

/// What the task has found out. All clones share it.
#[derive(Clone)]
pub(super) struct Elected {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<(StatusWriter, Option<Problem>)>,
    changed: Notify,
}

impl Elected {
    /// Without a Lease: this agent writes.
    pub(super) fn alone(identity: String) -> Self {
        Self::with(StatusWriter { identity: Some(identity), ..StatusWriter::default() })
    }

    /// Starts the task. It runs until the runtime ends.
    pub(super) fn start(client: Client, lease: LeaseName, identity: String) -> Self {
        let elected = Self::with(StatusWriter {
            lease: Some(lease.to_string()),
            identity: Some(identity.clone()),
            role: Role::Pending,
        });
        let api = Api::namespaced(client, &lease.namespace);
        let election = Election::new(identity.clone());
        let candidate = Candidate { api, lease, identity, election, held: None };
        tokio::spawn(candidate.run(elected.clone()));
        elected
    }

    fn with(writer: StatusWriter) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new((writer, None)), changed: Notify::new() }) }
    }

    pub(super) fn writer(&self) -> StatusWriter {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Waits until it changes. Cancel safe.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    fn set(&self, role: Role, problem: Option<Problem>) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.role != role || state.1 != problem {
            state.0.role = role;
            state.1 = problem;
            tracing::info!(writer = %state.0, "who writes statuses and Events");
            self.shared.changed.notify_one();
        }
    }
}

/// The task.
struct Candidate {
    api: Api<Lease>,
    lease: LeaseName,
    identity: String,
    election: Election,
    /// The Lease as this agent wrote it last: the next renewal need not read it.
    held: Option<Lease>,
}

impl Candidate {
    async fn run(mut self, elected: Elected) {
        loop {
            let began = clock::now_std();
            let asked = tokio::time::timeout(REQUEST_TIMEOUT, self.ask(began)).await;
            let (answer, refusal) = match asked {
                Ok(Ok(answer)) => (answer, None),
                Ok(Err(error)) => self.failed(error),
                Err(_) => (Answer::Silence, None),
            };
            if !matches!(answer, Answer::Held) {
                self.held = None;
            }
            let is_too_late = answer == Answer::TooLate;
            let role = self.election.note(answer, began, clock::now_std());
            let pause = match role {
                _ if is_too_late => AGAIN,
                Role::Elected if self.held.is_some() => RENEW_EVERY,
                _ => LOOK_EVERY,
            };
            let problem = refusal.and_then(|why| self.problem(&role, why));
            elected.set(role, problem);
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks at the Lease, and writes it if that is this agent's turn.
    async fn ask(&mut self, now: Instant) -> kube::Result<Answer> {
        let current = match self.held.take() {
            Some(held) => Some(held),
            None => self.api.get_opt(&self.lease.name).await?,
        };
        let record = current.as_ref().map(record_of);
        let turn = self.election.turn(record.as_ref(), now);
        if turn == Turn::Leave {
            let holder = record.and_then(|record| record.holder).unwrap_or_default();
            return Ok(Answer::Others(cut(holder, MESSAGE_BYTES)));
        }
        let wanted = self.wanted(current.as_ref(), turn);
        let parameters = PostParams::default();
        let written = match current {
            None => self.api.create(&parameters, &wanted).await,
            // It has the revision that was read, so a Lease that has changed since is not replaced.
            Some(_) => self.api.replace(&self.lease.name, &parameters, &wanted).await,
        };
        self.held = Some(written?);
        Ok(Answer::Held)
    }

    fn wanted(&self, current: Option<&Lease>, turn: Turn) -> Lease {
        let now = Timestamp::try_from(clock::time_of_day()).ok().map(MicroTime);
        let known = current.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let before = known.lease_transitions.unwrap_or(0);
        let (acquired, transitions) = match turn {
            Turn::Renew => (known.acquire_time, before),
            Turn::Take | Turn::Leave => (now.clone(), before.saturating_add(1)),
        };
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: acquired,
            renew_time: now,
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        let metadata = current.map(|lease| lease.metadata.clone()).unwrap_or_else(|| ObjectMeta {
            namespace: Some(self.lease.namespace.clone()),
            name: Some(self.lease.name.clone()),
            ..ObjectMeta::default()
        });
        Lease { metadata, spec: Some(spec) }
    }

    /// What an error means, and for a refusal its text.
    fn failed(&self, error: kube::Error) -> (Answer, Option<String>) {
        let code = match &error {
            kube::Error::Api(answer) => Some(answer.code),
            _ => None,
        };
        let error = KubeError::from(error);
        let text = cut(ErrorChain(&error).to_string(), MESSAGE_BYTES / 2);
        match code {
            Some(409) => (Answer::TooLate, None),
            // 404: the namespace does not exist. 422: a name that the API does not accept.
            Some(403 | 404 | 422) if !error.is_from_no_api() => (Answer::Refused, Some(text)),
            // The source reports an API that is away.
            _ => (Answer::Silence, code.filter(|_| !error.is_from_no_api()).map(|_| text)),
        }
    }

    /// What is said about a Lease that can't be used.
    fn problem(&self, role: &Role, why: String) -> Option<Problem> {
        let what = match role {
            Role::Unasked => {
                "this agent writes statuses and Events without asking the other agents of its group"
            }
            Role::Unknown => "this agent does not write statuses and Events, because another one may",
            Role::Alone | Role::Pending | Role::Elected | Role::Other(_) => return None,
        };
        let message = format!(
            "{what}: {why}; grant llb's user the verbs get, create and update on leases of coordination.k8s.io in namespace {} \
             (`llb-agent rbac` prints all rights), name another Lease with --lease, or give --lease off if this is the only agent",
            self.lease.namespace
        );
        let subject = Subject::Object(format!("Lease {}", self.lease));
        Some(Problem { subject, reason: ProblemReason::LeaseUnavailable, message })
    }
}

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(seconds.unwrap_or(0)),
        renewed: spec.renew_time.map(|time| time.0.to_string()),
    }
}
