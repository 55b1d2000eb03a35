// SPDX-License-Identifier: Apache-2.0
//! The addresses of the API server, and of the proxy to it, as their names lead to them now. No Service may have one of
//! them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use tokio::net::lookup_host;
use tokio::sync::watch;

use super::connect::{Cluster, Host};
use super::timeouts::{RESOLVE_INTERVAL, RESOLVE_TIMEOUT, RESOLVED_FOR};
use crate::clock;
use crate::model::ReservedFor;

/// Addresses that no Service may have, and what each one is.
pub type Reserved = BTreeMap<IpAddr, ReservedFor>;

/// Resolves the names again and again. Never ends.
pub(super) async fn follow(cluster: Cluster, out: watch::Sender<Reserved>) {
    let (mut resolved, mut unresolved) = (Resolved::default(), Vec::new());
    let mut is_first = true;
    loop {
        let hosts = cluster.current.load().hosts.clone();
        let mut failed = Vec::new();
        for host in hosts {
            match lookup(&host).await {
                Some(found) => resolved.note(found, &host.what, clock::now_std()),
                None => failed.push(host.name),
            }
        }
        for name in failed.iter().filter(|name| !unresolved.contains(*name)) {
            tracing::warn!(
                name,
                "cannot resolve the name of the API server or of the proxy to it, so a Service could ask for an \
                 address of it that is not known yet"
            );
        }
        unresolved = failed;
        let reserved = resolved.at(clock::now_std());
        out.send_if_modified(|known| {
            let differs = *known != reserved;
            *known = reserved;
            // Also an empty result is one.
            differs || is_first
        });
        is_first = false;
        tokio::time::sleep(RESOLVE_INTERVAL).await;
    }
}

/// `None` if the name cannot be resolved now.
async fn lookup(host: &Host) -> Option<Vec<IpAddr>> {
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, lookup_host((host.name.as_str(), host.port))).await;
    Some(found.ok()?.ok()?.map(|address| address.ip()).collect())
}

/// What names led to lately. Pure.
#[derive(Debug, Default)]
struct Resolved(BTreeMap<IpAddr, (ReservedFor, Instant)>);

impl Resolved {
    fn note(&mut self, found: Vec<IpAddr>, what: &ReservedFor, now: Instant) {
        self.0.extend(found.into_iter().map(|address| (address, (what.clone(), now))));
    }

    /// Forgets what is too old, unless it is all there is: no address is worse than an old one.
    fn at(&mut self, now: Instant) -> Reserved {
        let newest = self.0.values().map(|(_, seen)| *seen).max();
        let is_recent =
            |seen: Instant| now.saturating_duration_since(seen) < RESOLVED_FOR || Some(seen) == newest;
        self.0.retain(|_, (_, seen)| is_recent(*seen));
        self.0.iter().map(|(address, (what, _))| (*address, what.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stays_closed_for_a_while_after_its_name_left_it() {
        let (mut resolved, start) = (Resolved::default(), clock::now_std());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let known = |reserved: Reserved| reserved.into_keys().collect::<Vec<_>>();
        let (old, new) = (address("192.0.2.1"), address("192.0.2.2"));
        resolved.note(vec![old], &ReservedFor::ApiServer, start);
        assert_eq!(known(resolved.at(start + RESOLVED_FOR * 2)), [old], "the name server is away");
        let later = start + RESOLVED_FOR / 2;
        resolved.note(vec![new], &ReservedFor::ApiServer, later);
        assert_eq!(known(resolved.at(later)), [old, new]);
        assert_eq!(known(resolved.at(start + RESOLVED_FOR)), [new]);
    }
}
