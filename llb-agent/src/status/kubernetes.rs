//! Statuses and Events on the Services of a cluster.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event as ApiEvent, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Event, StatusError, StatusOrder, StatusSink};
use crate::model::{PublishedStatus, PublishedVip, ServiceName, Snapshot};

/// Who writes, as `kubectl get --show-managed-fields` and Events show it.
const CONTROLLER: &str = "llb";
/// An API server that needs longer is as good as away; the write is tried again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests at one time; the others wait their turn. An agent that starts with
/// thousands of Services must not be what brings the API server down.
const REQUESTS: usize = 16;

/// Patches Services.
#[derive(Clone)]
pub struct KubernetesStatuses {
    client: Client,
    recorder: Recorder,
    permits: Arc<Semaphore>,
    written: Arc<Mutex<BTreeMap<ServiceName, Written>>>,
}

/// What was written and is not seen in a snapshot yet.
struct Written {
    /// The object that the snapshot had when it was written.
    revision: String,
    status: PublishedStatus,
}

impl KubernetesStatuses {
    /// By this client.
    pub fn new(client: Client) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: None };
        let permits = Arc::new(Semaphore::new(REQUESTS));
        Self { recorder: Recorder::new(client.clone(), reporter), client, permits, written: Arc::default() }
    }
}

impl StatusSink for KubernetesStatuses {
    fn observe(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, PublishedStatus> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|name, written| {
            snapshot.services.get(name).is_some_and(|service| service.revision == written.revision)
        });
        let status_of = |(name, service): (&ServiceName, &crate::model::Service)| {
            let status = written.get(name).map_or(&service.status, |written| &written.status);
            (name.clone(), status.clone())
        };
        let known = snapshot.services.iter().map(status_of);
        known.filter(|(_, status)| !status.vips.is_empty()).collect()
    }

    async fn write(&self, order: StatusOrder) -> Result<(), StatusError> {
        let StatusOrder { service, revision, status } = order;
        let api: Api<Service> = Api::namespaced(self.client.clone(), &service.namespace);
        let patch = json!({ "status": { "loadBalancer": { "ingress": ingress(&status) } } });
        let patch = Patch::Merge(&patch);
        let parameters = PatchParams { field_manager: Some(CONTROLLER.to_owned()), ..PatchParams::default() };
        // Fails only when the semaphore is closed, which nobody does.
        let _permit = self.permits.acquire().await;
        let patched = api.patch_status(&service.name, &parameters, &patch);
        match tokio::time::timeout(WRITE_TIMEOUT, patched).await {
            Err(_) => Err(StatusError::TimedOut { service }),
            Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => Ok(()),
            Ok(Err(kube::Error::Api(answer))) if answer.code == 403 => {
                Err(StatusError::Forbidden { service })
            }
            Ok(Err(source)) => Err(StatusError::Api { service, source: Box::new(source) }),
            Ok(Ok(_)) => {
                let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
                written.insert(service, Written { revision, status });
                Ok(())
            }
        }
    }

    async fn record(&self, event: Event) {
        let kind = <Service as Resource>::kind(&());
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.into_owned()),
            namespace: Some(event.service.namespace.clone()),
            name: Some(event.service.name.clone()),
            uid: Some(event.uid),
            ..ObjectReference::default()
        };
        let told = ApiEvent {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason.to_owned(),
            note: Some(cut(&event.message)),
            action: "Sync".to_owned(),
            secondary: None,
        };
        let _permit = self.permits.acquire().await;
        let result = tokio::time::timeout(WRITE_TIMEOUT, self.recorder.publish(&told, &about)).await;
        match result {
            Ok(Err(error @ kube::Error::Api(_))) => {
                tracing::warn!(service = %event.service, %error, "an Event was not taken; llb's user needs the verbs create and patch on events of events.k8s.io");
            }
            // The API is away, which is told already, and once.
            Ok(Err(error)) => tracing::debug!(service = %event.service, %error, "an Event is lost"),
            Err(_) => tracing::debug!(service = %event.service, "an Event is lost: no answer"),
            Ok(Ok(_)) => {}
        }
    }
}

/// The API takes 1,024 bytes at most in a note.
fn cut(message: &str) -> String {
    const LONGEST: usize = 1000;
    let end =
        message.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= LONGEST).last();
    message[..end.unwrap_or(0)].to_owned()
}

/// `null` removes the list.
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
    use super::*;
    use crate::model::PublishedPort;

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
        assert_eq!(ingress(&PublishedStatus { vips: vec![vip] }), expected);
        assert_eq!(ingress(&PublishedStatus::default()), Value::Null);
    }

    #[test]
    fn notes_fit_into_an_event() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"é".repeat(800)).len(), 1000);
    }
}
