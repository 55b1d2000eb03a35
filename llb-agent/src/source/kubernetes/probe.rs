// SPDX-License-Identifier: Apache-2.0
//! Asks the API server again and again whether it answers, which cluster it is, and at which revision. Watches find
//! out neither: one whose connection died in silence, or whose revision the server has never had, only hears nothing.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::ListParams;
use kube::core::ObjectList;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;

use super::connect::Cluster;
use super::health::Health;
use super::timeouts::{PROBE_AGAIN, PROBE_INTERVAL, PROBE_TIMEOUT, RELIST_INTERVAL};
use super::watches::apis;
use crate::clock;

/// The one request that needs no right but to ask for a single namespace.
const WHAT: &str = "namespaces (kube-system)";

/// How many questions in a row are not answered in an outage. A busy API server may be late once.
const OUTAGE: u32 = 2;

/// How many questions after a refusal are asked without a name, before it is tried again.
const WITHOUT_NAME: u32 = 60;

/// What an API server answered.
pub(super) struct Answer {
    pub(super) uid: Option<String>,
    revision: Option<u64>,
}

/// Asks the API server of a cluster.
pub(super) struct Probe {
    pub(super) cluster: Cluster,
    pub(super) namespaces: Vec<String>,
    pub(super) health: Arc<Health>,
    pub(super) relist: watch::Sender<u64>,
}

impl Probe {
    /// Never ends.
    pub(super) async fn run(self) {
        let (mut history, mut unnamed) = (History::default(), 0);
        let mut relists = Relists::default();
        loop {
            let answer = self.ask(&mut unnamed).await;
            let now = clock::now_std();
            let reason = match &answer {
                Ok(answer) => {
                    self.health.works(WHAT, now);
                    self.identify(answer.uid.as_ref()).or(history.answered(answer.revision))
                }
                Err(error) => {
                    history.failed(is_connection_lost(error));
                    None
                }
            };
            if let Some(reason) = relists.due(reason, now) {
                tracing::info!("{reason}; all objects are listed again");
                self.relist.send_modify(|count| *count += 1);
            }
            if let Err(error) = answer
                && history.is_outage_or(is_refusal(&error))
            {
                self.health.fails(WHAT, watcher::Error::InitialListFailed(error), now);
            }
            let pause = if history.failures > 0 { PROBE_AGAIN } else { PROBE_INTERVAL };
            tokio::time::sleep(pause).await;
        }
    }

    /// `unnamed`: how many questions are to be asked without the name of a namespace.
    async fn ask(&self, unnamed: &mut u32) -> Result<Answer, kube::Error> {
        if let Some(rest) = unnamed.checked_sub(1) {
            *unnamed = rest;
            return in_time(ask_for_revision(&self.cluster.client, &self.namespaces)).await;
        }
        match in_time(ask_for_identity(&self.cluster.client)).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {
                *unnamed = WITHOUT_NAME;
                tracing::info!(
                    answer = status.message,
                    "llb may not read namespace kube-system, so only the URL tells this cluster from others; \
                     `llb-agent rbac` prints the right for it"
                );
                in_time(ask_for_revision(&self.cluster.client, &self.namespaces)).await
            }
            other => other,
        }
    }

    /// Notes which cluster this is, and says if it is another one than before.
    fn identify(&self, uid: Option<&String>) -> Option<String> {
        let mut before = None;
        self.cluster.identity.send_if_modified(|identity| {
            let differs = uid.is_some() && identity.uid.as_ref() != uid;
            if differs {
                before = std::mem::replace(&mut identity.uid, uid.cloned());
            }
            differs
        });
        before.map(|before| {
            let url = &self.cluster.server().url;
            format!("another cluster answers at {url}: the UID of its kube-system is not {before}")
        })
    }
}

/// Asks for the namespace kube-system: its UID, and the revision of the answer.
pub(super) async fn ask_for_identity(client: &Client) -> Result<Answer, kube::Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let list = api.list_metadata(&ListParams::default().fields("metadata.name=kube-system")).await?;
    let uid = list.items.first().and_then(|namespace| namespace.metadata.uid.clone());
    Ok(Answer { uid, revision: revision_of(&list) })
}

/// Asks for at most one Service, which llb may do anyway.
async fn ask_for_revision(client: &Client, namespaces: &[String]) -> Result<Answer, kube::Error> {
    let Some(api) = apis::<Service>(client, namespaces).into_iter().next() else {
        return Ok(Answer { uid: None, revision: None });
    };
    match api.list_metadata(&ListParams::default().limit(1)).await {
        Ok(list) => Ok(Answer { uid: None, revision: revision_of(&list) }),
        // The watch of Services says it better.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Answer { uid: None, revision: None }),
        Err(error) => Err(error),
    }
}

fn revision_of<K>(list: &ObjectList<PartialObjectMeta<K>>) -> Option<u64>
where
    PartialObjectMeta<K>: Clone,
{
    list.metadata.resource_version.as_ref()?.parse().ok()
}

pub(super) async fn in_time<T>(
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let late = || {
        let text = format!("no answer within {} s", PROBE_TIMEOUT.as_secs());
        kube::Error::Service(io::Error::new(io::ErrorKind::TimedOut, text).into())
    };
    tokio::time::timeout(PROBE_TIMEOUT, answer).await.unwrap_or_else(|_| Err(late()))
}

/// Whether there is no connection, as while an API server starts again. A late answer says nothing of the kind.
fn is_connection_lost(error: &kube::Error) -> bool {
    match error {
        kube::Error::Service(error) => {
            let io = error.downcast_ref::<io::Error>();
            io.is_none_or(|error| error.kind() != io::ErrorKind::TimedOut)
        }
        kube::Error::HyperError(_) => true,
        _ => false,
    }
}

/// Whether the API server answers, and does not know llb.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 401)
}

/// When all objects are listed again. API servers that contradict each other must not make it happen all the time. Pure.
#[derive(Debug, Default)]
struct Relists {
    last: Option<Instant>,
    waiting: Option<String>,
}

impl Relists {
    /// The reason for a new list now, if there is one that may not wait any longer.
    fn due(&mut self, reason: Option<String>, now: Instant) -> Option<String> {
        self.waiting = reason.or(self.waiting.take());
        let is_early = self.last.is_some_and(|last| now.saturating_duration_since(last) < RELIST_INTERVAL);
        if is_early || self.waiting.is_none() {
            return None;
        }
        self.last = Some(now);
        self.waiting.take()
    }
}

/// What the answers so far were like. Pure.
#[derive(Debug, Default)]
struct History {
    /// Questions in a row that were not answered.
    failures: u32,
    /// One of them found no connection. An API server that starts again may have an older etcd behind it, whose revision
    /// soon passes the last one that was seen.
    has_lost_connection: bool,
    /// Of the last answer. It grows with every write to the cluster.
    revision: u64,
}

impl History {
    fn failed(&mut self, is_connection_lost: bool) {
        self.failures += 1;
        self.has_lost_connection |= is_connection_lost;
    }

    fn is_outage_or(&self, is_refusal: bool) -> bool {
        self.failures >= OUTAGE || is_refusal
    }

    /// Why all objects have to be listed again, if they have to.
    fn answered(&mut self, revision: Option<u64>) -> Option<String> {
        let was_away = self.failures >= OUTAGE || self.has_lost_connection;
        (self.failures, self.has_lost_connection) = (0, false);
        let revision = revision.unwrap_or(self.revision);
        let before = std::mem::replace(&mut self.revision, revision);
        if revision < before {
            return Some(format!(
                "the cluster went back from revision {before} to {revision}, as after a restore of etcd"
            ));
        }
        was_away.then(|| "the API server answers again".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_that_goes_back_or_an_outage_means_a_new_list() {
        let mut history = History::default();
        assert_eq!(history.answered(Some(100)), None);
        assert_eq!(history.answered(Some(100)), None);
        assert_eq!(history.answered(None), None, "it is not told");
        let reason = history.answered(Some(60)).unwrap();
        assert!(reason.contains("from revision 100 to 60"), "{reason}");
        assert_eq!(history.answered(Some(61)), None, "said once");
        history.failed(false);
        assert!(!history.is_outage_or(false));
        assert_eq!(history.answered(Some(62)), None, "it was late once");
        history.failed(true);
        assert!(!history.is_outage_or(false));
        assert!(history.answered(Some(62)).unwrap().contains("answers again"), "it has started again");
        (0..OUTAGE).for_each(|_| history.failed(false));
        assert!(history.is_outage_or(false));
        assert!(history.answered(Some(63)).unwrap().contains("answers again"));
        assert_eq!(history.answered(Some(64)), None);
    }

    #[test]
    fn new_lists_have_a_pace_and_none_is_forgotten() {
        let (mut relists, start) = (Relists::default(), clock::now_std());
        let reason = || Some("back".to_owned());
        assert_eq!(relists.due(None, start), None);
        assert_eq!(relists.due(reason(), start), reason());
        assert_eq!(relists.due(reason(), start), None, "too early");
        assert_eq!(relists.due(None, start + RELIST_INTERVAL), reason());
        assert_eq!(relists.due(None, start + RELIST_INTERVAL * 2), None);
    }
}
