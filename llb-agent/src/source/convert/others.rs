// SPDX-License-Identifier: Apache-2.0
//! What matters of a Service that llb does not serve. Pure.

use std::sync::Arc;

use super::ConvertedService;
use crate::model::{PublishedStatus, PublishedVip, Service, Terms};

/// The Service without what changes often and does not matter as long as somebody else serves it. Its addresses
/// stay, because llb gives them to no other Service.
pub(in crate::source) fn reduced(converted: &ConvertedService) -> ConvertedService {
    let service = &converted.service;
    let address = |vip: &PublishedVip| PublishedVip { ip: vip.ip, proxy: vip.proxy, ports: Vec::new() };
    let status = PublishedStatus {
        vips: service.status.vips.iter().map(address).collect(),
        finalizer: service.status.finalizer,
        modes_untold: false,
    };
    // llb may have to clear the status of a Service that it served before, or to remove its finalizer.
    let revision = match service.wants_load_balancer || status.is_empty() {
        true => String::new(),
        false => service.revision.clone(),
    };
    let service = Service {
        revision,
        ports: Vec::new(),
        unsupported_ports: Vec::new(),
        requested_vips: Vec::new(),
        pool: None,
        sharing_key: None,
        invalid: false,
        terms: Terms::default(),
        status,
        ..(**service).clone()
    };
    ConvertedService { name: converted.name.clone(), service: Arc::new(service), problems: Vec::new() }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service as Object;
    use serde_json::json;

    use super::super::service_of;
    use super::*;

    #[test]
    fn changes_that_concern_only_others_leave_nothing_behind() {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": "1"},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "example.org/other", "clusterIPs": ["10.96.0.7"],
                     "ports": [{"port": 80, "protocol": "TCP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7", "ports": [{"port": 80, "protocol": "TCP"}]}]}},
        });
        let reduced_of = |object: &serde_json::Value| {
            let object: Object = serde_json::from_value(object.clone()).unwrap();
            reduced(&service_of(&object, true))
        };
        let before = reduced_of(&object);
        object["metadata"]["resourceVersion"] = json!("2");
        object["metadata"]["annotations"] = json!({"llb.dev/vips": "nonsense"});
        object["spec"]["ports"] = json!([{"port": 81, "protocol": "SCTP"}]);
        assert_eq!(reduced_of(&object), before);
        object["status"]["loadBalancer"]["ingress"][0]["ip"] = json!("192.0.2.8");
        assert_ne!(reduced_of(&object), before);
    }
}
