// SPDX-License-Identifier: Apache-2.0
//! The ranges that the cluster takes ClusterIPs from (ServiceCIDR, Kubernetes 1.33). Where the API server does not
//! have them, or does not show them to llb, only the ClusterIPs of Services are known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client};

use super::health::Health;
use super::store::Change;
use super::timeouts::{PROBE_AGAIN, PROBE_TIMEOUT, RANGES_INTERVAL};

/// The ranges, as they were read last.
#[derive(Debug, Default)]
pub(super) struct Ranges(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `None`: the API server has not answered yet.
    known: Option<Vec<IpNet>>,
    change: Change,
}

impl Ranges {
    pub(super) fn set(&self, ranges: Vec<IpNet>) -> Change {
        let mut state = self.lock();
        if state.known.as_ref() == Some(&ranges) {
            return Change::Nothing;
        }
        state.known = Some(ranges);
        state.change = Change::Ours;
        Change::Ours
    }

    /// Whether the API server has answered.
    pub(super) fn is_complete(&self) -> bool {
        self.lock().known.is_some()
    }

    pub(super) fn take_change(&self) -> Change {
        std::mem::take(&mut self.lock().change)
    }

    /// The ranges known now.
    pub(super) fn all(&self) -> Vec<IpNet> {
        self.lock().known.clone().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the ranges again and again. Never ends.
pub(super) async fn follow(client: Client, ranges: Arc<Ranges>, health: Arc<Health>) {
    let api: Api<ServiceCIDR> = Api::all(client);
    loop {
        let list = tokio::time::timeout(PROBE_TIMEOUT, api.list(&ListParams::default())).await;
        let change = match list {
            Ok(Ok(list)) => ranges.set(ranges_of(&list.items)),
            // It has none, or does not show them. An API server that starts refuses for a while what it granted before.
            Ok(Err(kube::Error::Api(status))) if !ranges.is_complete() => {
                if status.code == 403 {
                    tracing::info!(
                        answer = status.message,
                        "llb may not read ServiceCIDRs, so of ClusterIPs it knows only those of Services; `llb-agent rbac` \
                         prints the right for it"
                    );
                }
                ranges.set(Vec::new())
            }
            Ok(Err(_)) | Err(_) => Change::Nothing,
        };
        if change == Change::Ours {
            health.changed.notify_one();
        }
        let pause = if ranges.is_complete() { RANGES_INTERVAL } else { PROBE_AGAIN };
        tokio::time::sleep(pause).await;
    }
}

fn ranges_of(objects: &[ServiceCIDR]) -> Vec<IpNet> {
    let specs = objects.iter().filter_map(|object| object.spec.as_ref());
    let texts = specs.flat_map(|spec| spec.cidrs.iter().flatten());
    let mut ranges: Vec<IpNet> = texts.filter_map(|text| text.parse().ok()).collect();
    ranges.sort();
    ranges.dedup();
    ranges
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_change_of_the_ranges_counts() {
        let object = |cidrs: &[&str]| -> ServiceCIDR {
            serde_json::from_value(json!({"spec": {"cidrs": cidrs}})).unwrap()
        };
        let both = ranges_of(&[object(&["fd00:10:96::/112", "nonsense"]), object(&["10.96.0.0/16"])]);
        assert_eq!(both.len(), 2);
        let ranges = Ranges::default();
        assert!(!ranges.is_complete());
        assert_eq!(ranges.set(both.clone()), Change::Ours);
        assert_eq!(ranges.set(both.clone()), Change::Nothing);
        assert_eq!((ranges.take_change(), ranges.take_change()), (Change::Ours, Change::Nothing));
        assert_eq!(ranges.all(), both);
    }
}
