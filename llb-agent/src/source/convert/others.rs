// SPDX-License-Identifier: Apache-2.0
//! What matters of a Service that llb does not serve. Pure.

use std::sync::Arc;

use super::ConvertedService;
use crate::model::{PublishedStatus, PublishedVip, Service};

/// The Service without everything that does not matter as long as somebody else serves it. What
/// stays is by whom it is served, and its addresses, which llb gives to no other Service.
pub(in crate::source) fn reduced(converted: &ConvertedService) -> ConvertedService {
    let service = &converted.service;
    let address = |vip: &PublishedVip| PublishedVip { ip: vip.ip, proxy: vip.proxy, ports: Vec::new() };
    let service = Service {
        uid: service.uid.clone(),
        wants_load_balancer: service.wants_load_balancer,
        class: service.class.clone(),
        cluster_ips: service.cluster_ips.clone(),
        status: PublishedStatus { vips: service.status.vips.iter().map(address).collect() },
        ..Service::default()
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
