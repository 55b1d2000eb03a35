// SPDX-License-Identifier: Apache-2.0
//! Random Services of a tenant who means harm: whatever somebody may write who has rights in one namespace.
//! The same seed gives the same Services. The test decides what must hold all the same.
//!
//! What an API server would refuse is only there where an exported file may have it all the same. What it
//! keeps from tenants is not there: a ClusterIP outside of the range of ClusterIPs, Nodes, other namespaces.

use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

/// Ports that the machine or its programs need, and some that Services usually have.
const PORTS: [i64; 16] =
    [22, 53, 80, 443, 2379, 2380, 6443, 8080, 9660, 10_250, 30_080, 32_768, 45_000, 60_999, 0, 70_000];
const PROTOCOLS: [&str; 6] = ["TCP", "TCP", "TCP", "UDP", "SCTP", "quic"];
const FAMILIES: [&str; 3] = ["IPv4", "IPv6", "IPv5"];
const POLICIES: [&str; 4] = ["SingleStack", "PreferDualStack", "RequireDualStack", "Stack"];
const RANGES: [&str; 6] =
    ["0.0.0.0/0", "::/0", "192.0.2.0/24", "10.0.0.0/8", "everybody", "::ffff:192.0.2.0/120"];
/// Addresses that are never a VIP.
const STRANGE: [&str; 10] = [
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "169.254.169.254",
    "fe80::1",
    "10.96.0.1",
    "203.0.113.5",
    "300.1.2.3",
];

/// Texts of annotations besides addresses.
const TEXTS: [(&str, &[&str]); 14] = [
    ("llb.dev/pool", &["victims", "tenants", "none", "a,b", "+shared=true"]),
    ("llb.dev/sharing-key", &["k", "victim", "*"]),
    ("llb.dev/balance", &["maglev", "least-connections", "all to me"]),
    ("llb.dev/mode", &["nat", "dsr", "root"]),
    ("llb.dev/proxy-protocol", &["v1", "v2", "v3"]),
    ("llb.dev/max-connections", &["0", "1", "4294967295", "-1", "many"]),
    ("llb.dev/vip", &["192.0.2.1"]),
    ("llb.dev/namespace", &["default"]),
    ("metallb.io/loadBalancerIPs", &["192.0.2.20", "203.0.113.5"]),
    ("metallb.universe.tf/address-pool", &["victims"]),
    ("metallb.io/allow-shared-ip", &["k", "victim"]),
    ("kube-vip.io/loadbalancerIPs", &["0.0.0.0", "192.0.2.1"]),
    ("service.beta.kubernetes.io/load-balancer-source-ranges", &["0.0.0.0/0", "nobody", ",,,,"]),
    ("service.beta.kubernetes.io/aws-load-balancer-type", &["nlb"]),
];

/// The tenant of one namespace.
#[derive(Debug)]
pub struct Tenant {
    random: StdRng,
    namespace: &'static str,
    /// What the tenant would like to have.
    wanted: Vec<IpAddr>,
}

impl Tenant {
    /// `wanted` are addresses of others, and those that the tenant may have.
    pub fn new(seed: u64, namespace: &'static str, wanted: Vec<IpAddr>) -> Self {
        Self { random: StdRng::seed_from_u64(seed), namespace, wanted }
    }

    /// A file with the Services of these numbers, some of them with EndpointSlices.
    pub fn manifest(&mut self, numbers: std::ops::Range<usize>) -> String {
        let mut file = String::new();
        for number in numbers {
            let name = format!("s{number}");
            let service = self.service(&name);
            let slice = self.one_in(4).then(|| self.slice(&name));
            for object in [Some(service), slice].into_iter().flatten() {
                // A line of JSON is YAML too.
                file.push_str(&format!("---\n{object}\n"));
            }
        }
        file
    }

    fn service(&mut self, name: &str) -> Value {
        let kind = if self.one_in(20) { self.of(&["ClusterIP", "NodePort", "None"]) } else { "LoadBalancer" };
        let mut spec = json!({"type": kind, "ports": self.ports()});
        self.addresses_and_families(&mut spec);
        self.terms(&mut spec);
        let mut metadata =
            json!({"name": name, "namespace": self.namespace, "annotations": self.annotations()});
        if self.one_in(2) {
            // Older Services come first.
            metadata["creationTimestamp"] = json!(self.of(&["1970-01-01T00:00:00Z", "2026-01-01T00:00:00Z"]));
        }
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        if self.one_in(5) {
            let ingress: Vec<Value> = (0..self.up_to(3)).map(|_| json!({"ip": self.address()})).collect();
            service["status"] = json!({"loadBalancer": {"ingress": ingress}});
        }
        service
    }

    fn ports(&mut self) -> Vec<Value> {
        let count = match self.up_to(100) {
            0 => 0,
            1 => 200,
            2..=10 => 20,
            _ => 1 + self.up_to(3),
        };
        (0..count)
            .map(|number| {
                let port = if self.one_in(2) { self.of(&PORTS) } else { self.random.random_range(1..65_536) };
                let mut entry =
                    json!({"name": format!("p{number}"), "port": port, "protocol": self.of(&PROTOCOLS)});
                if !self.one_in(5) {
                    entry["nodePort"] = json!(self.of(&[30_080, 31_000, 32_000, 99_999]));
                }
                entry
            })
            .collect()
    }

    fn addresses_and_families(&mut self, spec: &mut Value) {
        if self.one_in(3) {
            let count = 1 + self.up_to(3);
            spec["ipFamilies"] = (0..count).map(|_| self.of(&FAMILIES)).collect();
        }
        if self.one_in(3) {
            spec["ipFamilyPolicy"] = json!(self.of(&POLICIES));
        }
        if self.one_in(5) {
            spec["loadBalancerIP"] = json!(self.address());
        }
        if self.one_in(10) {
            spec["externalIPs"] = json!([self.address()]);
        }
        if self.one_in(2) {
            let (high, low) = (self.up_to(256), self.up_to(256));
            spec["clusterIP"] = json!(format!("10.96.{high}.{low}"));
        }
        if self.one_in(50) {
            spec["loadBalancerClass"] = json!(self.of(&["llb.dev/llb", "other"]));
        }
    }

    fn terms(&mut self, spec: &mut Value) {
        if self.one_in(4) {
            spec["externalTrafficPolicy"] = json!(self.of(&["Local", "Cluster", "Mine"]));
        }
        if self.one_in(6) {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] =
                json!({"clientIP": {"timeoutSeconds": self.of(&[0, 1, 86_400, i32::MAX])}});
        }
        if self.one_in(6) {
            let count = self.up_to(4);
            spec["loadBalancerSourceRanges"] = (0..count).map(|_| self.of(&RANGES)).collect();
        }
    }

    fn annotations(&mut self) -> Value {
        let mut annotations = Map::new();
        if self.one_in(2) {
            let count = if self.one_in(20) { 20 } else { 1 + self.up_to(3) };
            let addresses: Vec<String> = (0..count).map(|_| self.address()).collect();
            annotations.insert("llb.dev/vips".to_owned(), json!(addresses.join(",")));
        }
        for _ in 0..self.up_to(4) {
            let (name, texts) = self.of(&TEXTS);
            // Long ones are rare, because a test reads all of them.
            let text = if self.one_in(200) { "x".repeat(20_000) } else { self.of(texts).to_owned() };
            annotations.insert(name.to_owned(), json!(text));
        }
        Value::Object(annotations)
    }

    fn slice(&mut self, service: &str) -> Value {
        let count = if self.one_in(50) { 200 } else { self.up_to(4) };
        let endpoints: Vec<Value> = (0..count)
            .map(|_| json!({"addresses": [self.address()], "conditions": {"ready": !self.one_in(4)}}))
            .collect();
        let ports: Vec<Value> = (0..1 + self.up_to(3))
            .map(|number| {
                let port = self.of(&PORTS).clamp(1, 65_535);
                json!({"name": format!("p{number}"), "port": port, "protocol": self.of(&["TCP", "UDP"])})
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{service}-1"), "namespace": self.namespace,
                         "labels": {"kubernetes.io/service-name": service}},
            "endpoints": endpoints, "ports": ports,
        })
    }

    fn address(&mut self) -> String {
        match self.up_to(10) {
            0 => self.of(&STRANGE).to_owned(),
            1 => IpAddr::from(self.random.random::<[u8; 4]>()).to_string(),
            _ => {
                let index = self.up_to(self.wanted.len());
                self.wanted[index].to_string()
            }
        }
    }

    /// One of `all`.
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.random_range(0..all.len())]
    }

    fn up_to(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.random.random_ratio(1, count)
    }
}
