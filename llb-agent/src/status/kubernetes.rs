// SPDX-License-Identifier: Apache-2.0
//! Writes statuses and Events of Services to a Kubernetes API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::api::{Api, Patch, PatchParams};
use kube::core::Status;
use kube::runtime::events::{Event as ApiEvent, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Effect, Event, StatusError, StatusOrder, StatusSink};
use crate::error_chain::ErrorChain;
use crate::kube_error::KubeError;
use crate::model::{
    FIELD_MANAGER, Finalizer, MESSAGE_BYTES, PublishedStatus, PublishedVip, ServiceName, Snapshot, cut,
};

/// A request is given up after this time. The reconciler tries a write again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most writes at one time; others wait. An agent that starts with thousands of
/// Services must not overload the API server.
const REQUESTS: usize = 16;
/// The same for Events. They have a limit of their own, so that statuses do not wait for them.
const EVENT_REQUESTS: usize = 4;

/// Writes to a Kubernetes API.
#[derive(Clone)]
pub struct KubernetesStatuses {
    client: Client,
    recorder: Recorder,
    permits: Arc<Semaphore>,
    event_permits: Arc<Semaphore>,
    written: Arc<Mutex<BTreeMap<ServiceName, Written>>>,
}

/// A status that was written, or whose Service is gone, and that no snapshot shows yet.
struct Written {
    /// The `resourceVersion` that the snapshot had when the status was ordered.
    revision: String,
    status: PublishedStatus,
}

impl KubernetesStatuses {
    /// Writes with this client.
    pub fn new(client: Client) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: None };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            permits: Arc::new(Semaphore::new(REQUESTS)),
            event_permits: Arc::new(Semaphore::new(EVENT_REQUESTS)),
            written: Arc::default(),
        }
    }
}

impl StatusSink for KubernetesStatuses {
    fn observe(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, PublishedStatus> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|name, written| {
            snapshot.services.get(name).is_some_and(|service| service.revision == written.revision)
        });
        let status_of = |(name, service): (&ServiceName, &Arc<crate::model::Service>)| {
            let status = written.get(name).map_or(&service.status, |written| &written.status);
            (name.clone(), status.clone())
        };
        let known = snapshot.services.iter().map(status_of);
        known.filter(|(_, status)| !status.is_empty()).collect()
    }

    async fn write(&self, order: StatusOrder) -> Result<Effect, StatusError> {
        // Fails only if the semaphore is closed, which does not happen.
        let _permit = self.permits.acquire().await;
        let StatusOrder { service, uid, revision, status, removes_finalizer } = order;
        let api: Api<Service> = Api::namespaced(self.client.clone(), &service.namespace);
        // A strategic patch, because a merge patch would replace the finalizers of others.
        let patch = body(&uid, &status, removes_finalizer);
        let patch = Patch::Strategic(&patch);
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patched = api.patch_status(&service.name, &parameters, &patch);
        let effect = match tokio::time::timeout(WRITE_TIMEOUT, patched).await {
            Err(_) => return Err(StatusError::TimedOut { service }),
            Ok(Err(kube::Error::Api(answer))) if is_gone(&answer) => Effect::Gone,
            Ok(Err(kube::Error::Api(answer))) if answer.code == 403 => {
                return Err(StatusError::Forbidden {
                    service,
                    answer: cut(answer.message.clone(), MESSAGE_BYTES),
                });
            }
            Ok(Err(source)) => return Err(StatusError::Api { service, source: source.into() }),
            Ok(Ok(_)) => Effect::Done,
        };
        // Also if the Service is gone: a snapshot may still have it, and the same write would
        // be ordered again and again.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(service, Written { revision, status });
        Ok(effect)
    }

    async fn record(&self, event: Event) {
        let kind = <Service as Resource>::kind(&());
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.into_owned()),
            namespace: Some(event.service.namespace.to_string()),
            name: Some(event.service.name.to_string()),
            uid: Some(event.uid),
            ..ObjectReference::default()
        };
        let published = ApiEvent {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason.to_owned(),
            note: Some(cut(event.message, MESSAGE_BYTES)),
            action: "Sync".to_owned(),
            secondary: None,
        };
        let _permit = self.event_permits.acquire().await;
        let result = tokio::time::timeout(WRITE_TIMEOUT, self.recorder.publish(&published, &about)).await;
        match result {
            Ok(Err(kube::Error::Api(answer))) => {
                tracing::warn!(service = %event.service, answer = cut(answer.message, MESSAGE_BYTES), "the API server refused an Event; if RBAC forbids it, grant llb's user the verbs create and patch on events of events.k8s.io");
            }
            // The source already reports that the API does not answer.
            Ok(Err(error)) => {
                let error = KubeError::from(error);
                tracing::debug!(service = %event.service, error = %ErrorChain(&error), "an Event is lost");
            }
            Err(_) => {
                tracing::debug!(service = %event.service, "an Event is lost: the API server did not answer in time")
            }
            Ok(Ok(_)) => {}
        }
    }
}

/// Whether the Service does not exist, or another Service has its name now.
fn is_gone(answer: &Status) -> bool {
    let mut causes = answer.details.iter().flat_map(|details| &details.causes);
    answer.code == 404 || (answer.code == 422 && causes.any(|cause| cause.field == "metadata.uid"))
}

/// What is written: the status, and in the same write our finalizer.
fn body(uid: &str, status: &PublishedStatus, removes_finalizer: bool) -> Value {
    // The API server refuses to change a uid, so another Service of this name is not written.
    let mut metadata = json!({ "uid": uid });
    if removes_finalizer {
        metadata["$deleteFromPrimitiveList/finalizers"] = json!([Finalizer::NAME]);
    } else if status.finalizer == Finalizer::Ours {
        metadata["finalizers"] = json!([Finalizer::NAME]);
    }
    json!({ "metadata": metadata, "status": { "loadBalancer": { "ingress": ingress(status) } } })
}

/// The value of `status.loadBalancer.ingress`; `null` removes the list.
fn ingress(status: &PublishedStatus) -> Value {
    let entry = |vip: &PublishedVip| {
        let ports = vip.ports.iter().map(|port| match &port.error {
            None => json!({ "port": port.port, "protocol": port.protocol }),
            Some(error) => json!({ "port": port.port, "protocol": port.protocol, "error": error }),
        });
        let mode = if vip.proxy { "Proxy" } else { "VIP" };
        json!({ "ip": vip.ip, "ipMode": mode, "ports": ports.collect::<Vec<_>>() })
    };
    if status.vips.is_empty() { Value::Null } else { status.vips.iter().map(entry).collect() }
}

#[cfg(test)]
mod tests {
    use kube::Config;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::model::PublishedPort;

    /// Statuses of an API server that answers one request like this, and the request.
    async fn api(code: u16, answer: Value) -> (KubernetesStatuses, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            // The body of the patch comes last and ends with a brace.
            while !request.ends_with(b"}") {
                assert!(connection.read_buf(&mut request).await.unwrap() > 0);
            }
            let body = answer.to_string();
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {code} Answer\r\ncontent-type: application/json\r\ncontent-length: {length}"
            );
            connection.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        (KubernetesStatuses::new(client), server)
    }

    fn failure(code: u16, message: &str) -> Value {
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message })
    }

    fn order(revision: &str) -> StatusOrder {
        let vip = PublishedVip { ip: "192.0.2.7".parse().unwrap(), proxy: true, ports: Vec::new() };
        StatusOrder {
            service: ServiceName::new("default", "web"),
            uid: "u-1".to_owned(),
            revision: revision.to_owned(),
            status: PublishedStatus { vips: [vip].into(), ..PublishedStatus::default() },
            removes_finalizer: false,
        }
    }

    #[tokio::test]
    async fn a_service_that_is_gone_is_not_written_again() {
        let (statuses, server) = api(404, failure(404, "services \"web\" not found")).await;
        assert_eq!(statuses.write(order("7")).await.unwrap(), Effect::Gone);
        server.await.unwrap();
        let mut snapshot = Snapshot::default();
        let service = crate::model::Service { revision: "7".to_owned(), ..Default::default() };
        snapshot.services.insert(order("7").service, service.clone().into());
        assert_eq!(statuses.observe(&snapshot)[&order("7").service], order("7").status);
        snapshot
            .services
            .insert(order("7").service, crate::model::Service { revision: "8".to_owned(), ..service }.into());
        assert!(statuses.observe(&snapshot).is_empty(), "another Service of this name has no status yet");
    }

    #[tokio::test]
    async fn another_service_of_this_name_is_not_written() {
        let mut answer = failure(422, "Service \"web\" is invalid");
        answer["details"] =
            json!({ "causes": [{ "field": "metadata.uid", "message": "field is immutable" }] });
        let (statuses, server) = api(422, answer).await;
        assert_eq!(statuses.write(order("7")).await.unwrap(), Effect::Gone);
        let request = server.await.unwrap();
        assert!(request.contains(r#""metadata":{"uid":"u-1"}"#), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_shows_the_servers_message() {
        let (statuses, server) = api(403, failure(403, "admission webhook \"x\" denied the request")).await;
        let error = statuses.write(order("7")).await.unwrap_err().to_string();
        server.await.unwrap();
        assert!(error.contains("admission webhook \"x\" denied"), "{error}");
    }

    #[test]
    fn one_write_has_status_and_finalizer() {
        let mut status = order("7").status;
        assert_eq!(body("u", &status, false)["metadata"], json!({ "uid": "u" }), "that of others stays");
        status.finalizer = Finalizer::Ours;
        let added = body("u", &status, false);
        assert_eq!(added["metadata"]["finalizers"], json!([Finalizer::NAME]));
        assert_eq!(added["status"]["loadBalancer"]["ingress"][0]["ip"], json!("192.0.2.7"));
        let removed = body("u", &PublishedStatus::default(), true);
        let metadata = json!({ "uid": "u", "$deleteFromPrimitiveList/finalizers": [Finalizer::NAME] });
        assert_eq!(removed["metadata"], metadata);
        assert_eq!(removed["status"]["loadBalancer"]["ingress"], Value::Null);
    }

    #[test]
    fn the_status_has_mode_and_ports() {
        let port = |port, error: Option<&str>| PublishedPort {
            port,
            protocol: "TCP".to_owned(),
            error: error.map(str::to_owned),
        };
        let ports = vec![port(80, None), port(81, Some("llb.dev/PortNotServed"))];
        let vip = PublishedVip { ip: "2001:db8::7".parse().unwrap(), proxy: true, ports };
        let expected = json!([{ "ip": "2001:db8::7", "ipMode": "Proxy", "ports": [
            { "port": 80, "protocol": "TCP" },
            { "port": 81, "protocol": "TCP", "error": "llb.dev/PortNotServed" },
        ]}]);
        assert_eq!(ingress(&PublishedStatus { vips: [vip].into(), ..PublishedStatus::default() }), expected);
        assert_eq!(ingress(&PublishedStatus::default()), Value::Null);
    }
}
