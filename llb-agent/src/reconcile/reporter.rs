// SPDX-License-Identifier: Apache-2.0
//! Decides which Events to send: for status writes, and once for each problem.
//! Pure; the clock is an argument. The log lines of problems: `problem_log.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::{Problem, ProblemReason, PublishedStatus, ServiceName, Snapshot, State, Subject};
use crate::status::Event;

/// A problem that was gone for less than this time gets no new Event when it comes back.
const QUIET: Duration = Duration::from_secs(300);

/// Problems that are over and remembered. With more of them, all are forgotten: then Events may come twice.
const MOST_REMEMBERED: usize = 10_000;

/// Remembers the Events of problems, and when each problem was last there.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    sent: BTreeMap<Event, Instant>,
}

impl Reporter {
    /// Events for the problems that are new, or were gone for a while.
    pub(super) fn problems<'a>(
        &mut self,
        problems: impl IntoIterator<Item = &'a Problem>,
        snapshot: &Snapshot,
        desired: &State,
        now: Instant,
    ) -> Vec<Event> {
        let current: BTreeSet<Event> =
            problems.into_iter().filter_map(|problem| event_of(problem, snapshot, desired)).collect();
        // A problem that lasts is not sent again; one that is over is forgotten after the quiet time.
        for event in &current {
            if let Some(last) = self.sent.get_mut(event) {
                *last = now;
            }
        }
        self.sent.retain(|_, last| now.saturating_duration_since(*last) < QUIET);
        let new: Vec<Event> = current.into_iter().filter(|event| !self.sent.contains_key(event)).collect();
        self.sent.extend(new.iter().map(|event| (event.clone(), now)));
        if self.sent.len() > MOST_REMEMBERED {
            self.sent.retain(|_, last| *last == now);
        }
        new
    }

    /// The Event for a status write; `None` if the VIPs stay the same.
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

/// The Event for a problem of a Service; other problems have none. The reasons are those of
/// the cloud service controller. If the Service is served all the same, nothing has failed, and
/// the reason is that of the problem.
fn event_of(problem: &Problem, snapshot: &Snapshot, desired: &State) -> Option<Event> {
    let Subject::Service(service) = &problem.subject else { return None };
    let is_served = desired.statuses.get(service).is_some_and(|status| !status.vips.is_empty());
    let reason = match problem.reason {
        ProblemReason::NoEligibleNodes | ProblemReason::NoBackends | ProblemReason::BackendsUnreachable => {
            "UnAvailableLoadBalancer"
        }
        ProblemReason::AffinityAtNodes => "AffinityAtNodes",
        ProblemReason::UnhealthyBackends => "UnhealthyBackends",
        ProblemReason::InvalidValue if is_served => "InvalidValue",
        ProblemReason::UnsupportedProtocol if is_served => "UnsupportedProtocol",
        ProblemReason::NoSubnet => "NoSubnet",
        ProblemReason::TakenByKubeProxy => "TakenByKubeProxy",
        ProblemReason::OutsidePools => "OutsidePools",
        ProblemReason::StatusOverwritten => "StatusOverwritten",
        ProblemReason::UnknownName => "UnknownName",
        ProblemReason::ForeignAnnotation => "ForeignAnnotation",
        _ => "SyncLoadBalancerFailed",
    };
    let uid = snapshot.services.get(service)?.uid.clone();
    let message = match problem.reason {
        // One Event, however many ports and VIPs the Service has.
        ProblemReason::BackendsUnreachable => format!(
            "a port has no backend that can be reached, so its clients get no answer; `llb-agent explain {service}` \
             names the backends and why"
        ),
        _ => problem.message.clone(),
    };
    Some(Event { service: service.clone(), uid, warning: true, reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::model::{PublishedVip, Service};

    #[test]
    fn a_problem_is_sent_once_and_again_after_the_quiet_time() {
        let name = ServiceName::new("default", "web");
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(name.clone(), Service::default().into());
        let failing = [Problem::of_service(&name, ProblemReason::ActionFailed, "refused")];
        let (mut reporter, start) = (Reporter::default(), clock::now_std());
        let mut sent = |problems: &[Problem], after| {
            reporter.problems(problems, &snapshot, &State::default(), start + after).len()
        };
        assert_eq!(sent(&failing, Duration::ZERO), 1);
        assert_eq!(sent(&failing, QUIET * 2), 0, "it lasted");
        assert_eq!(sent(&[], QUIET * 2), 0);
        assert_eq!(sent(&failing, QUIET * 2 + QUIET / 2), 0, "it came back too soon");
        assert_eq!(sent(&[], QUIET * 5), 0);
        assert_eq!(sent(&failing, QUIET * 5), 1);
    }

    #[test]
    fn texts_that_change_all_the_time_take_a_bounded_amount_of_memory() {
        let name = ServiceName::new("default", "web");
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(name.clone(), Service::default().into());
        let (mut reporter, now) = (Reporter::default(), clock::now_std());
        for second in 0..30 {
            let text = |number: usize| format!("text {number} of second {second}");
            let problem = |number| Problem::of_service(&name, ProblemReason::InvalidValue, text(number));
            let problems: Vec<Problem> = (0..1000).map(problem).collect();
            let now = now + Duration::from_secs(second);
            assert_eq!(reporter.problems(&problems, &snapshot, &State::default(), now).len(), 1000);
            assert!(reporter.sent.len() <= MOST_REMEMBERED, "{second}");
        }
    }

    #[test]
    fn status_writes_have_the_event_reasons_of_the_cloud_controller() {
        let name = ServiceName::new("default", "web");
        let status = |ips: &[&str]| PublishedStatus {
            vips: ips
                .iter()
                .map(|ip| PublishedVip { ip: ip.parse().unwrap(), proxy: true, ports: Vec::new() })
                .collect(),
            ..PublishedStatus::default()
        };
        let reason = |before: &[&str], after: &[&str]| {
            Reporter::written(&name, "", &status(before), &status(after)).map(|event| event.reason)
        };
        assert_eq!(reason(&[], &["192.0.2.1"]), Some("EnsuredLoadBalancer"));
        assert_eq!(reason(&["192.0.2.1"], &[]), Some("DeletedLoadBalancer"));
        assert_eq!(reason(&["192.0.2.1"], &["192.0.2.2"]), Some("UpdatedLoadBalancer"));
        assert_eq!(reason(&["192.0.2.1"], &["192.0.2.1"]), None);
    }

    #[test]
    fn a_service_that_is_served_all_the_same_has_not_failed() {
        let name = ServiceName::new("default", "web");
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(name.clone(), Service::default().into());
        let served = PublishedVip { ip: "192.0.2.1".parse().unwrap(), proxy: true, ports: Vec::new() };
        let mut desired = State::default();
        desired
            .statuses
            .insert(name.clone(), PublishedStatus { vips: [served].into(), ..PublishedStatus::default() });
        for (reason, when_served, when_not) in [
            (ProblemReason::InvalidValue, "InvalidValue", "SyncLoadBalancerFailed"),
            (ProblemReason::UnsupportedProtocol, "UnsupportedProtocol", "SyncLoadBalancerFailed"),
            (ProblemReason::NoSubnet, "NoSubnet", "NoSubnet"),
            (ProblemReason::TakenByKubeProxy, "TakenByKubeProxy", "TakenByKubeProxy"),
            (ProblemReason::OutsidePools, "OutsidePools", "OutsidePools"),
            (ProblemReason::UnknownName, "UnknownName", "UnknownName"),
            (ProblemReason::ForeignAnnotation, "ForeignAnnotation", "ForeignAnnotation"),
            (ProblemReason::AffinityAtNodes, "AffinityAtNodes", "AffinityAtNodes"),
            (ProblemReason::UnhealthyBackends, "UnhealthyBackends", "UnhealthyBackends"),
            (ProblemReason::ActionFailed, "SyncLoadBalancerFailed", "SyncLoadBalancerFailed"),
            (ProblemReason::NoBackends, "UnAvailableLoadBalancer", "UnAvailableLoadBalancer"),
            (ProblemReason::BackendsUnreachable, "UnAvailableLoadBalancer", "UnAvailableLoadBalancer"),
        ] {
            let problem = Problem::of_service(&name, reason, "text");
            let event = |desired: &State| event_of(&problem, &snapshot, desired).unwrap().reason;
            assert_eq!((event(&desired), event(&State::default())), (when_served, when_not), "{reason:?}");
        }
    }
}
