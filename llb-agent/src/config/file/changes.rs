// SPDX-License-Identifier: Apache-2.0
//! What differs between two configurations, and which of it takes effect without a restart.

use std::fmt;

use super::effective::Effective;

/// The keys that a running agent can't change: connections to the cluster, locks, sockets, threads, programs and
/// maps depend on them.
pub(in crate::config) const AT_START: [&str; 29] = [
    "linkdevice",
    "kubeconfig",
    "context",
    "manifests",
    "lease",
    "config-map",
    "address-tag",
    "announce",
    "group",
    "member",
    "peer",
    "vrrp-advert",
    "vrrp-id",
    "datapath",
    "userspace",
    "max-flows",
    "max-backends",
    "snat-ports",
    "xdp-mode",
    "tc-attach",
    "return-path",
    "workers",
    "sockmap-after-reads",
    "sockmap-max-pairs",
    "state-dir",
    "bpf-dir",
    "admin",
    "admin-socket",
    "admin-group",
];

/// A key whose value has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// As TOML; `None`: not set.
    pub before: Option<String>,
    /// As TOML; `None`: not set.
    pub after: Option<String>,
}

impl Change {
    /// All changes, in the order of `--help`.
    pub fn between(before: &Effective, after: &Effective) -> Vec<Self> {
        let both = before.texts().zip(after.texts());
        let changed = both.filter(|((_, before), (_, after))| before != after);
        changed.map(|((key, before), (_, after))| Self { key: key.to_owned(), before, after }).collect()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        write!(f, "{}: {} -> {}", self.key, shown(&self.before), shown(&self.after))
    }
}
