// SPDX-License-Identifier: Apache-2.0
//! What all tasks of one kubelet share: its host, the addresses of its Pods, and where each Pod runs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use llb_tests::Host;

/// The port of a kubelet's API.
pub(crate) const PORT: u16 = 10250;

/// What all tasks of one kubelet share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) host: Host,
    /// Its Pods get the addresses of `pod_prefix.1` to `.254`, each one once.
    pod_prefix: [u8; 3],
    next_address: AtomicU8,
    pub(super) agnhost: PathBuf,
    /// Where the process of each running Pod is, by namespace and name.
    places: Mutex<BTreeMap<(String, String), Host>>,
}

impl Node {
    pub(super) fn new(host: &Host, agnhost: &Path, pod_prefix: [u8; 3]) -> Self {
        Self {
            host: host.clone(),
            pod_prefix,
            next_address: AtomicU8::new(1),
            agnhost: agnhost.to_owned(),
            places: Mutex::default(),
        }
    }

    pub(super) fn places(&self) -> MutexGuard<'_, BTreeMap<(String, String), Host>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address that no Pod has had for a long time. kube-proxy and llb must not take a new Pod for an old one.
    pub(super) fn new_address(&self) -> (u8, Ipv4Addr) {
        let number = self.next_address.fetch_add(1, Ordering::Relaxed).clamp(1, 254);
        if number == 254 {
            self.next_address.store(1, Ordering::Relaxed);
        }
        let [a, b, c] = self.pod_prefix;
        (number, Ipv4Addr::new(a, b, c, number))
    }
}
