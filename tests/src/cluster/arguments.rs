// SPDX-License-Identifier: Apache-2.0
//! The command lines of the cluster's programs. `control_plane.rs` and `nodes.rs` run them.

use std::net::IpAddr;
use std::path::Path;

use super::certificates::Certificates;

/// Ranges of Service addresses. IPv4 comes first, so a Service is IPv4 unless it says otherwise.
pub(super) const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";

/// The address of the API server's own Service, which its certificate must name.
pub(super) const FIRST_SERVICE_ADDRESS: &str = "10.96.0.1";

/// Ranges of Pod addresses. kube-proxy decides by them which traffic comes from outside. Pods that are made by hand
/// use the addresses of their node; Pods of the conformance tests have addresses of the IPv4 range.
const POD_CIDRS: &str = "10.244.0.0/16,fd00:10:244::/56";

/// The controllers that the tests need. Without the node lifecycle controller, Nodes made by hand stay Ready.
/// With so few controllers, two slow cores are enough.
const CONTROLLERS: &str =
    "endpointslice-controller,namespace-controller,serviceaccount-controller,garbage-collector-controller";

/// What the conformance tests need besides: they make Pods by these, and wait for the CA in each namespace.
const POD_CONTROLLERS: &str = "deployment-controller,replicaset-controller,daemonset-controller,root-ca-certificate-publisher-controller";

/// Admission plugins that would wait for accounts of Pods, or taint Nodes that no kubelet reports for.
const NO_ADMISSION: &str = "ServiceAccount,TaintNodesByCondition";

/// On loopback, because only the API server talks to it.
pub(super) const ETCD_URL: &str = "http://127.0.0.1:2379";

/// The usual port of an API server.
pub(super) const APISERVER_PORT: u16 = 6443;

pub(super) fn etcd(data: &Path) -> Vec<String> {
    list([
        ("--data-dir", text(data)),
        ("--listen-client-urls", ETCD_URL.to_owned()),
        ("--advertise-client-urls", ETCD_URL.to_owned()),
        ("--listen-peer-urls", "http://127.0.0.1:2380".to_owned()),
        ("--unsafe-no-fsync", "true".to_owned()),
        ("--log-level", "warn".to_owned()),
    ])
}

pub(super) fn apiserver(certificates: &Certificates, tokens: &Path, address: IpAddr) -> Vec<String> {
    list([
        ("--etcd-servers", ETCD_URL.to_owned()),
        ("--bind-address", "0.0.0.0".to_owned()),
        ("--advertise-address", address.to_string()),
        ("--secure-port", APISERVER_PORT.to_string()),
        ("--authorization-mode", "Node,RBAC".to_owned()),
        ("--disable-admission-plugins", NO_ADMISSION.to_owned()),
        ("--tls-cert-file", text(&certificates.serving_certificate)),
        ("--tls-private-key-file", text(&certificates.serving_key)),
        ("--token-auth-file", text(tokens)),
        ("--service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("--service-account-key-file", text(&certificates.token_public_key)),
        ("--service-account-signing-key-file", text(&certificates.token_private_key)),
        ("--service-cluster-ip-range", SERVICE_CIDRS.to_owned()),
        ("--endpoint-reconciler-type", "none".to_owned()),
        ("--profiling", "false".to_owned()),
        // The tests stop it, and long requests (watches) must not delay that.
        ("--shutdown-delay-duration", "0s".to_owned()),
        // The names of the hosts are not in any DNS.
        ("--kubelet-preferred-address-types", "InternalIP".to_owned()),
    ])
}

/// The log holds at most 50 MB.
pub(super) fn audit(policy: &Path, log: &Path) -> Vec<String> {
    list([
        ("--audit-policy-file", text(policy)),
        ("--audit-log-path", text(log)),
        ("--audit-log-maxsize", "50".to_owned()),
        ("--audit-log-maxbackup", "1".to_owned()),
        // Otherwise it is written a second later.
        ("--audit-log-mode", "blocking".to_owned()),
    ])
}

pub(super) fn controller_manager(certificates: &Certificates, kubeconfig: &Path) -> Vec<String> {
    list([
        ("--kubeconfig", text(kubeconfig)),
        ("--controllers", format!("{CONTROLLERS},{POD_CONTROLLERS}")),
        ("--root-ca-file", text(&certificates.authority)),
        ("--leader-elect", "false".to_owned()),
        ("--use-service-account-credentials", "true".to_owned()),
        ("--service-account-private-key-file", text(&certificates.token_private_key)),
        ("--bind-address", "127.0.0.1".to_owned()),
        ("--secure-port", "0".to_owned()),
    ])
}

pub(super) fn proxy(node: &str, kubeconfig: &Path) -> Vec<String> {
    list([
        ("--kubeconfig", text(kubeconfig)),
        ("--proxy-mode", "nftables".to_owned()),
        ("--hostname-override", node.to_owned()),
        ("--cluster-cidr", POD_CIDRS.to_owned()),
        // These would write sysctls that a network namespace does not have.
        ("--conntrack-max-per-core", "0".to_owned()),
        ("--conntrack-tcp-timeout-established", "0".to_owned()),
        ("--conntrack-tcp-timeout-close-wait", "0".to_owned()),
        ("--healthz-bind-address", "127.0.0.1:10256".to_owned()),
        ("--metrics-bind-address", "127.0.0.1:10249".to_owned()),
    ])
}

fn list<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    pairs.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
