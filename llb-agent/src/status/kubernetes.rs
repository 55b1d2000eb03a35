// SPDX-License-Identifier: Apache-2.0
//! Writes statuses and Events of Services to a Kubernetes API.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::Status;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::events;
use super::lease::{Elected, identity};
use super::queue::EventQueue;
use super::written::{Written, WrittenStatuses};
use super::{Effect, Event, StatusError, StatusOrder, StatusSink};
use crate::clock;
use crate::model::{
    Condition, Conditions, FIELD_MANAGER, Finalizer, LeaseName, MESSAGE_BYTES, Problem, PublishedStatus,
    PublishedVip, ServiceName, Snapshot, StatusWriter, cut,
};

/// A request is given up after this time. The reconciler tries a write again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most writes at one time; others wait. An agent that starts with thousands of
/// Services must not overload the API server.
const REQUESTS: usize = 16;

/// Writes to a Kubernetes API.
#[derive(Clone)]
pub struct KubernetesStatuses {
    client: Client,
    permits: Arc<Semaphore>,
    written: Arc<Mutex<WrittenStatuses>>,
    events: Arc<EventQueue>,
    elected: Elected,
}

impl KubernetesStatuses {
    /// Writes with this client. With a Lease, only while this agent has it; its name there is kept in
    /// the state folder.
    pub fn start(client: Client, lease: Option<LeaseName>, state_dir: &Path) -> Self {
        let identity = identity(state_dir);
        let events = Arc::new(EventQueue::default());
        events::send_all(&events, &client, &identity);
        let elected = match lease {
            Some(lease) => Elected::start(client.clone(), lease, identity),
            None => Elected::alone(identity),
        };
        let permits = Arc::new(Semaphore::new(REQUESTS));
        Self { client, permits, written: Arc::default(), events, elected }
    }
}

impl StatusSink for KubernetesStatuses {
    fn observe(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, PublishedStatus> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.compare(snapshot, clock::now_std());
        let status_of = |(name, service): (&ServiceName, &Arc<crate::model::Service>)| {
            let status = written.of(name).unwrap_or(&service.status);
            (name.clone(), status.clone())
        };
        let known = snapshot.services.iter().map(status_of);
        known.filter(|(_, status)| !status.is_empty()).collect()
    }

    fn conditions(&self, snapshot: &Snapshot) -> Option<BTreeMap<ServiceName, Conditions>> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(name, service): (&ServiceName, &Arc<crate::model::Service>)| {
            (name.clone(), written.conditions_of(name).unwrap_or(&service.conditions).clone())
        };
        Some(snapshot.services.iter().map(of).filter(|(_, conditions)| !conditions.is_empty()).collect())
    }

    async fn write(&self, order: StatusOrder) -> Result<Effect, StatusError> {
        // Fails only if the semaphore is closed, which does not happen.
        let _permit = self.permits.acquire().await;
        let StatusOrder { service, uid, revision, status, conditions, removes_finalizer } = order;
        // The write may have waited while another agent got the Lease.
        if !self.elected.writer().writes() {
            return Err(StatusError::NotWriter { service });
        }
        let api: Api<Service> = Api::namespaced(self.client.clone(), &service.namespace);
        // It merges finalizers, and conditions by their type, so those of others stay. It replaces the list of
        // addresses.
        let patch = body(&uid, &status, conditions.as_ref(), removes_finalizer);
        let patch = Patch::Strategic(&patch);
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patched = api.patch_status(&service.name, &parameters, &patch);
        let (effect, after) = match tokio::time::timeout(WRITE_TIMEOUT, patched).await {
            Err(_) => return Err(StatusError::TimedOut { service }),
            Ok(Err(kube::Error::Api(answer))) if is_gone(&answer) => (Effect::Gone, None),
            Ok(Err(kube::Error::Api(answer))) if answer.code == 403 => {
                return Err(StatusError::Forbidden {
                    service,
                    answer: cut(answer.message.clone(), MESSAGE_BYTES),
                });
            }
            Ok(Err(source)) => return Err(StatusError::Api { service, source: source.into() }),
            Ok(Ok(answer)) => (Effect::Done, answer.metadata.resource_version),
        };
        // Also if the Service is gone: a snapshot may still have it, and the same write would
        // be ordered again and again.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.add(service, Written { before: revision, after, status, conditions, at: clock::now_std() });
        Ok(effect)
    }

    fn record(&self, event: Event) {
        self.events.add(event, clock::time_of_day(), clock::now());
    }

    fn writer(&self) -> StatusWriter {
        self.elected.writer()
    }

    fn writer_changed(&self) -> impl Future<Output = ()> + Send {
        self.elected.changed()
    }

    fn problem(&self) -> Option<Problem> {
        self.elected.problem()
    }

    fn register(&self, registry: &mut Registry) {
        let help = "Events that were never sent: too many waited, or they waited too long";
        registry.register("llb_events_dropped", help, self.events.dropped.clone());
    }
}

/// Whether the Service does not exist, or another Service has its name now.
fn is_gone(answer: &Status) -> bool {
    let mut causes = answer.details.iter().flat_map(|details| &details.causes);
    answer.code == 404 || (answer.code == 422 && causes.any(|cause| cause.field == "metadata.uid"))
}

/// What is written: the status, and in the same write our finalizer and conditions. `None`: the conditions stay as
/// they are.
fn body(
    uid: &str,
    status: &PublishedStatus,
    conditions: Option<&Conditions>,
    removes_finalizer: bool,
) -> Value {
    // The API server refuses to change a uid, so another Service of this name is not written.
    let mut metadata = json!({ "uid": uid });
    if removes_finalizer {
        metadata["$deleteFromPrimitiveList/finalizers"] = json!([Finalizer::NAME]);
    } else if status.finalizer == Finalizer::Ours {
        metadata["finalizers"] = json!([Finalizer::NAME]);
    }
    let mut patch =
        json!({ "metadata": metadata, "status": { "loadBalancer": { "ingress": ingress(status) } } });
    if let Some(conditions) = conditions {
        patch["status"]["conditions"] = shown(conditions, &now());
    }
    patch
}

/// The time of day as the API writes it.
fn now() -> String {
    let now = Timestamp::try_from(clock::time_of_day()).unwrap_or_default();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The entries of `status.conditions`. A condition that began to say so with this write began `now`.
fn shown(conditions: &Conditions, now: &str) -> Value {
    let entry = |type_: &str, condition: &Option<Condition>| match condition {
        None => json!({ "$patch": "delete", "type": type_ }),
        Some(known) => json!({
            "type": type_,
            "status": if known.is_true { "True" } else { "False" },
            "reason": known.reason,
            "message": known.message,
            "lastTransitionTime": known.since.as_deref().unwrap_or(now),
        }),
    };
    json!([
        entry(Condition::PROGRAMMED, &conditions.programmed),
        entry(Condition::REACHABLE, &conditions.reachable),
    ])
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
        (KubernetesStatuses::start(client, None, tempfile::tempdir().unwrap().path()), server)
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
            conditions: None,
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
    async fn a_change_that_came_before_the_write_does_not_cause_a_second_one() {
        let (statuses, server) = api(200, json!({ "metadata": { "resourceVersion": "9" } })).await;
        assert_eq!(statuses.write(order("7")).await.unwrap(), Effect::Done);
        server.await.unwrap();
        let published = |revision: &str| {
            let service = crate::model::Service { revision: revision.to_owned(), ..Default::default() };
            let services = [(order("7").service, service.into())].into();
            statuses.observe(&Snapshot { services, ..Snapshot::default() })
        };
        assert_eq!(published("7").len(), 1);
        assert_eq!(published("8").len(), 1, "the watch shows what somebody changed before the write");
        assert_eq!(published("9").len(), 0, "the watch shows the write, or what followed it");
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
    fn conditions_keep_their_time_and_missing_ones_are_removed() {
        let known =
            Condition { since: Some("then".to_owned()), ..Condition::new(true, "Programmed", "text") };
        let conditions = Conditions { programmed: Some(known), reachable: None };
        let expected = json!([
            { "type": "llb.dev/Programmed", "status": "True", "reason": "Programmed", "message": "text", "lastTransitionTime": "then" },
            { "type": "llb.dev/Reachable", "$patch": "delete" },
        ]);
        assert_eq!(shown(&conditions, "now"), expected);
        let conditions =
            Conditions { programmed: None, reachable: Some(Condition::new(false, "NoBackends", "")) };
        assert_eq!(shown(&conditions, "now")[1]["lastTransitionTime"], "now");
        assert!(now().ends_with('Z') && now().len() == 20, "{}", now());
    }

    #[test]
    fn one_write_has_status_and_finalizer() {
        let mut status = order("7").status;
        assert_eq!(
            body("u", &status, None, false)["metadata"],
            json!({ "uid": "u" }),
            "that of others stays"
        );
        status.finalizer = Finalizer::Ours;
        let added = body("u", &status, None, false);
        assert_eq!(added["metadata"]["finalizers"], json!([Finalizer::NAME]));
        assert_eq!(added["status"]["loadBalancer"]["ingress"][0]["ip"], json!("192.0.2.7"));
        let removed = body("u", &PublishedStatus::default(), None, true);
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
