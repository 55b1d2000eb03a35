// SPDX-License-Identifier: Apache-2.0
//! Which Events to send. Pure: from what was published and what is wrong to
//! Events, each told once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::{Problem, ProblemReason, PublishedStatus, ServiceName, Snapshot, Subject};
use crate::status::Event;

/// A problem that comes and goes is told again after this time at the earliest.
const QUIET: Duration = Duration::from_secs(300);

/// Remembers what was told.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    told: BTreeMap<Event, Instant>,
}

impl Reporter {
    /// Warnings for what is wrong now and was not told lately.
    pub(super) fn problems<'a>(
        &mut self,
        problems: impl IntoIterator<Item = &'a Problem>,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Vec<Event> {
        let current: BTreeSet<Event> =
            problems.into_iter().filter_map(|problem| event_of(problem, snapshot)).collect();
        // What lasts stays told; what is over is forgotten after the quiet time.
        for event in &current {
            if let Some(last) = self.told.get_mut(event) {
                *last = now;
            }
        }
        self.told.retain(|_, last| now.saturating_duration_since(*last) < QUIET);
        let news: Vec<Event> = current.into_iter().filter(|event| !self.told.contains_key(event)).collect();
        self.told.extend(news.iter().map(|event| (event.clone(), now)));
        news
    }

    /// What a status write means to a user.
    pub(super) fn written(
        service: &ServiceName,
        uid: &str,
        before: &PublishedStatus,
        after: &PublishedStatus,
    ) -> Option<Event> {
        let before = before.addresses();
        let after = after.addresses();
        let list = after.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (reason, message) = match (before.is_empty(), after.is_empty()) {
            (true, false) => ("EnsuredLoadBalancer", format!("Ensured load balancer: {list}")),
            (false, true) => ("DeletedLoadBalancer", "Deleted load balancer".to_owned()),
            _ if before != after => ("UpdatedLoadBalancer", format!("Updated load balancer: {list}")),
            _ => return None,
        };
        Some(Event { service: service.clone(), uid: uid.to_owned(), warning: false, reason, message })
    }
}

/// Problems of Services only. The reasons are those of the cloud service controller.
fn event_of(problem: &Problem, snapshot: &Snapshot) -> Option<Event> {
    let Subject::Service(service) = &problem.subject else { return None };
    let reason = match problem.reason {
        ProblemReason::NoEligibleNodes | ProblemReason::NoBackends => "UnAvailableLoadBalancer",
        // It is served all the same.
        ProblemReason::AffinityAtNodes => "AffinityAtNodes",
        _ => "SyncLoadBalancerFailed",
    };
    let uid = snapshot.services.get(service)?.uid.clone();
    Some(Event { service: service.clone(), uid, warning: true, reason, message: problem.message.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PublishedVip, Service};

    #[test]
    fn a_problem_is_told_once_and_again_after_the_quiet_time() {
        let name = ServiceName::new("default", "web");
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(name.clone(), Service::default().into());
        let failing = [Problem::of_service(&name, ProblemReason::ActionFailed, "no")];
        let (mut reporter, start) = (Reporter::default(), Instant::now());
        let mut told =
            |problems: &[Problem], after| reporter.problems(problems, &snapshot, start + after).len();
        assert_eq!(told(&failing, Duration::ZERO), 1);
        assert_eq!(told(&failing, QUIET * 2), 0, "it lasted: no news");
        assert_eq!(told(&[], QUIET * 2), 0);
        assert_eq!(told(&failing, QUIET * 2 + QUIET / 2), 0, "it came back too soon");
        assert_eq!(told(&[], QUIET * 5), 0);
        assert_eq!(told(&failing, QUIET * 5), 1);
    }

    #[test]
    fn writes_have_the_reasons_of_the_cloud_controller() {
        let name = ServiceName::new("default", "web");
        let status = |ips: &[&str]| PublishedStatus {
            vips: ips
                .iter()
                .map(|ip| PublishedVip { ip: ip.parse().unwrap(), proxy: true, ports: Vec::new() })
                .collect(),
        };
        let reason = |before: &[&str], after: &[&str]| {
            Reporter::written(&name, "", &status(before), &status(after)).map(|event| event.reason)
        };
        assert_eq!(reason(&[], &["192.0.2.1"]), Some("EnsuredLoadBalancer"));
        assert_eq!(reason(&["192.0.2.1"], &[]), Some("DeletedLoadBalancer"));
        assert_eq!(reason(&["192.0.2.1"], &["192.0.2.2"]), Some("UpdatedLoadBalancer"));
        assert_eq!(reason(&["192.0.2.1"], &["192.0.2.1"]), None);
    }
}
