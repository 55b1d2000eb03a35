// SPDX-License-Identifier: Apache-2.0
//! Sends Events to a Kubernetes API. Each Event is an object of its own: the caller sends each text
//! once, so nothing has to be counted or patched. (The recorder of the crate kube takes Events of
//! one reason for one series, and shows only the first text of them.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::events::v1::Event as Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource};

use super::queue::{EventQueue, Waiting};
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::kube_error::KubeError;
use crate::model::{FIELD_MANAGER, MESSAGE_BYTES, cut};

/// Requests at one time. Statuses do not wait for them.
const REQUESTS: usize = 4;
/// A request is given up after this time, and sent again later.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after the API server did not answer.
const PAUSE: Duration = Duration::from_secs(5);
/// A refusal is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Starts to send what is in the queue, until the runtime ends.
pub(super) fn send_all(queue: &Arc<EventQueue>, client: &Client, reporter: &str) {
    let reporting = Reporting { controller: FIELD_MANAGER, instance: cut(reporter.to_owned(), 128) };
    for _ in 0..REQUESTS {
        tokio::spawn(send(Arc::clone(queue), client.clone(), reporting.clone()));
    }
}

/// Who reports.
#[derive(Clone)]
struct Reporting {
    controller: &'static str,
    instance: String,
}

/// Whether the same request would be refused again. 401: the credentials may be renewed in this moment.
fn is_final(code: u16) -> bool {
    code < 500 && ![401, 408, 429].contains(&code)
}

async fn send(queue: Arc<EventQueue>, client: Client, reporting: Reporting) {
    let mut logged: Option<Instant> = None;
    loop {
        let next = queue.next(clock::now).await;
        let object = object_of(&next, &reporting);
        let api: Api<Object> = Api::namespaced(client.clone(), &next.event.service.namespace);
        let parameters = PostParams::default();
        let created = api.create(&parameters, &object);
        match tokio::time::timeout(REQUEST_TIMEOUT, created).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(answer))) if is_final(answer.code) => {
                let now = clock::now_std();
                if logged.is_none_or(|last| now.saturating_duration_since(last) >= LOG_EVERY) {
                    logged = Some(now);
                    tracing::warn!(service = %next.event.service, answer = cut(answer.message, MESSAGE_BYTES), "the API server refused an Event; if RBAC forbids it, grant llb's user the verb create on events of events.k8s.io (`llb-agent rbac` prints all rights)");
                }
            }
            // The source already reports that the API does not answer.
            Ok(Err(error)) => {
                let error = KubeError::from(error);
                tracing::debug!(service = %next.event.service, error = %ErrorChain(&error), "an Event waits");
                queue.put_back(next);
                tokio::time::sleep(PAUSE).await;
            }
            Err(_) => {
                tracing::debug!(service = %next.event.service, "an Event waits: the API server did not answer in time");
                queue.put_back(next);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn object_of(waiting: &Waiting, reporting: &Reporting) -> Object {
    let event = &waiting.event;
    let regarding = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(<Service as Resource>::kind(&()).into_owned()),
        namespace: Some(event.service.namespace.to_string()),
        name: Some(event.service.name.to_string()),
        uid: Some(event.uid.clone()),
        ..ObjectReference::default()
    };
    Object {
        metadata: ObjectMeta {
            namespace: Some(event.service.namespace.to_string()),
            generate_name: Some(format!("{}-", event.service.name)),
            ..ObjectMeta::default()
        },
        event_time: Timestamp::try_from(waiting.at).ok().map(MicroTime),
        reporting_controller: Some(reporting.controller.to_owned()),
        reporting_instance: Some(reporting.instance.clone()),
        action: Some("Sync".to_owned()),
        reason: Some(event.reason.to_owned()),
        regarding: Some(regarding),
        note: Some(cut(event.message.clone(), MESSAGE_BYTES)),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Object::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;
    use crate::status::Event;

    #[test]
    fn an_event_is_an_object_that_the_api_takes() {
        let event = Event {
            service: ServiceName::new("default", "web"),
            uid: "u-1".to_owned(),
            warning: true,
            reason: "SyncLoadBalancerFailed",
            message: "é".repeat(2000),
        };
        let waiting = Waiting { event, at: clock::time_of_day(), since: clock::now() };
        let object = object_of(&waiting, &Reporting { controller: "llb", instance: "box_1".to_owned() });
        // The API takes a name that ends with a dash, but not one that ends with a dot.
        assert_eq!(object.metadata.generate_name.as_deref(), Some("web-"));
        assert!(object.note.unwrap().len() <= 1024 && object.event_time.is_some());
        assert_eq!(object.regarding.unwrap().uid.as_deref(), Some("u-1"));
    }
}
