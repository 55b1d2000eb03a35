// SPDX-License-Identifier: Apache-2.0
//! Decides what is said about dead backends: one log line when a backend is found dead, one when it answers
//! again, and a problem when a frontend has no other. Pure; the clock is an argument. How a backend is found
//! dead is the planes' business.
//!
//! A backend that fails and answers in turn does not fill the log: it counts as well again after [`CALM`]
//! without a failure. A frontend whose backends all fail becomes a problem after [`PATIENCE`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::line_limit::{LINES, LineLimit};
use crate::model::{
    Backend, BackendFailure, FailedBackends, Frontend, FrontendStatus, Phase, PlaneKind, Problem,
    ProblemReason, ServiceName,
};

/// For so long a backend must not fail to be said to be back. Both planes try a dead backend again within
/// this time.
pub(super) const CALM: Duration = Duration::from_secs(10);
/// For so long all backends of a frontend must be dead to be a problem. A Pod that starts again needs less.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

type Frontends = BTreeMap<Frontend, FrontendStatus>;

/// What was said and not taken back.
#[derive(Debug, Default)]
pub(super) struct DeadBackends {
    dead: BTreeMap<(Frontend, Backend), Dead>,
    outages: BTreeMap<Frontend, Outage>,
    limit: LineLimit,
}

/// A backend that was said to be dead.
#[derive(Clone, Debug)]
struct Dead {
    service: ServiceName,
    /// The plane that found it.
    plane: PlaneKind,
    since: Instant,
    /// Since when it does not fail any more.
    well: Option<Instant>,
}

/// A frontend whose backends are all dead.
#[derive(Clone, Debug)]
struct Outage {
    service: ServiceName,
    since: Instant,
    is_problem: bool,
    /// Since when one of them does not fail any more.
    well: Option<Instant>,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Dead(ServiceName, Frontend, Backend, BackendFailure),
    /// With the time that it was dead.
    Back(ServiceName, Frontend, Backend, Duration),
    /// The last line of this window.
    Full,
}

impl Line {
    /// Writes the line.
    pub(super) fn write(&self) {
        match self {
            Self::Dead(service, frontend, backend, BackendFailure { why, .. }) => {
                let reason = why.label();
                tracing::warn!(%service, %frontend, %backend, reason, "backend is dead: {why}");
            }
            Self::Back(service, frontend, backend, lasted) => {
                let seconds = lasted.as_secs();
                tracing::info!(%service, %frontend, %backend, seconds, "backend answers again");
            }
            Self::Full => tracing::warn!(
                lines = LINES,
                "too many backends die and come back; no more lines about them within a minute: see failed_backends in /state"
            ),
        }
    }
}

/// Leaves out what no frontend that serves needs any more.
pub(super) fn retain_used(failed: &mut FailedBackends, frontends: &Frontends) {
    failed.retain(|frontend, failed| {
        let status = frontends.get(frontend).filter(|status| status.phase == Phase::Serving);
        let rule = status.and_then(|status| status.rule.as_ref());
        failed.retain(|backend, _| rule.is_some_and(|rule| rule.backends.contains_key(backend)));
        !failed.is_empty()
    });
}

impl DeadBackends {
    /// The lines for what has changed. `failed` are the backends of `frontends` that are dead at `now`.
    pub(super) fn follow(
        &mut self,
        failed: &FailedBackends,
        frontends: &Frontends,
        now: Instant,
    ) -> Vec<Line> {
        let mut lines = self.recovered(failed, frontends, now);
        for (frontend, status) in frontends {
            let Some(rule) = &status.rule else { continue };
            let Some(failed) = failed.get(frontend) else { continue };
            for (&backend, &failure) in failed {
                let dead = self.dead.entry((*frontend, backend)).or_insert_with(|| {
                    lines.push(Line::Dead(rule.service.clone(), *frontend, backend, failure));
                    let (service, plane) = (rule.service.clone(), status.placement.plane);
                    Dead { service, plane, since: failure.since, well: None }
                });
                dead.well = None;
            }
        }
        self.follow_outages(failed, frontends, now);
        self.limit.keep(lines, Line::Full, now)
    }

    /// Forgets those that are no longer dead. No line tells of a backend that the rule has no more, or
    /// whose frontend another plane serves now: nobody knows whether it answers.
    fn recovered(&mut self, failed: &FailedBackends, frontends: &Frontends, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        self.dead.retain(|(frontend, backend), dead| {
            let status = frontends.get(frontend).filter(|status| status.placement.plane == dead.plane);
            let rule = status.and_then(|status| status.rule.as_ref());
            if rule.is_none_or(|rule| !rule.backends.contains_key(backend)) {
                return false;
            }
            if failed.get(frontend).is_some_and(|failed| failed.contains_key(backend)) {
                return true;
            }
            let well = *dead.well.get_or_insert(now);
            let is_back = now.saturating_duration_since(well) >= CALM;
            if is_back {
                let lasted = well.saturating_duration_since(dead.since);
                lines.push(Line::Back(dead.service.clone(), *frontend, *backend, lasted));
            }
            !is_back
        });
        lines
    }

    fn follow_outages(&mut self, failed: &FailedBackends, frontends: &Frontends, now: Instant) {
        let mut before = std::mem::take(&mut self.outages);
        for (frontend, status) in frontends.iter().filter(|(_, status)| status.phase == Phase::Serving) {
            let Some(rule) = status.rule.as_ref().filter(|rule| !rule.backends.is_empty()) else { continue };
            let dead = failed.get(frontend).map_or(0, BTreeMap::len);
            let is_out = dead == rule.backends.len();
            let old = before.remove(frontend).filter(|outage| outage.service == rule.service);
            let outage = match old {
                None if is_out => {
                    Outage { service: rule.service.clone(), since: now, is_problem: false, well: None }
                }
                Some(outage) if is_out => {
                    let is_old = now.saturating_duration_since(outage.since) >= PATIENCE;
                    Outage { is_problem: outage.is_problem || is_old, well: None, ..outage }
                }
                Some(outage) if outage.is_problem => {
                    let well = outage.well.unwrap_or(now);
                    if now.saturating_duration_since(well) >= CALM {
                        continue;
                    }
                    Outage { well: Some(well), ..outage }
                }
                _ => continue,
            };
            self.outages.insert(*frontend, outage);
        }
    }

    /// The frontends that have had no other than dead backends for a while. The texts stay the same, whichever
    /// backends come and go.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let lasting = self.outages.iter().filter(|(_, outage)| outage.is_problem);
        lasting.map(|(frontend, Outage { service, .. })| {
            let message = format!(
                "no backend of {frontend} can be reached, so clients get no answer; llb goes on trying. \
                 `llb-agent explain {service}` names each backend and why: check that its Pods listen, and that \
                 no firewall is in between"
            );
            Problem::of_service(service, ProblemReason::BackendsUnreachable, message)
        })
    }

    /// When something is to be said without news of the planes.
    pub(super) fn next(&self) -> Option<Instant> {
        let back = self.dead.values().filter_map(|dead| Some(dead.well? + CALM));
        let outages = self.outages.values().filter_map(|outage| match outage.well {
            Some(well) => Some(well + CALM),
            None => (!outage.is_problem).then(|| outage.since + PATIENCE),
        });
        back.chain(outages).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock;
    use crate::model::{FailureReason, Port, Protocol, Rule, Terms, Weight};

    const SECOND: Duration = Duration::from_secs(1);

    fn backend(octet: u8) -> Backend {
        Backend { address: ([192, 0, 2, octet], 30080).into() }
    }

    fn frontend() -> Frontend {
        Frontend { vip: [192, 0, 2, 100].into(), port: Port::new(80).unwrap(), protocol: Protocol::Tcp }
    }

    fn serving(backends: &[u8]) -> Frontends {
        let backends = backends.iter().map(|octet| (backend(*octet), Weight::MIN)).collect();
        let rule = Rule::new(ServiceName::new("default", "web"), backends, Terms::default());
        [(frontend(), FrontendStatus::relayed(Arc::new(rule), Phase::Serving))].into()
    }

    fn failed(backends: &[u8], since: Instant) -> FailedBackends {
        let failure = BackendFailure { why: FailureReason::Refused, since };
        let failed: BTreeMap<_, _> = backends.iter().map(|octet| (backend(*octet), failure)).collect();
        if failed.is_empty() { FailedBackends::new() } else { [(frontend(), failed)].into() }
    }

    /// How many lines tell of a death, and how many of a return.
    fn told(lines: &[Line]) -> (usize, usize) {
        let is_dead = |line: &&Line| matches!(line, Line::Dead(..));
        let is_back = |line: &&Line| matches!(line, Line::Back(..));
        (lines.iter().filter(is_dead).count(), lines.iter().filter(is_back).count())
    }

    #[test]
    fn a_dead_backend_is_told_once_and_its_return_when_it_lasts() {
        let (mut told_of, start, served) = (DeadBackends::default(), clock::now_std(), serving(&[1, 2]));
        let lines = told_of.follow(&failed(&[1], start), &served, start);
        let service = ServiceName::new("default", "web");
        let failure = BackendFailure { why: FailureReason::Refused, since: start };
        assert_eq!(lines, [Line::Dead(service.clone(), frontend(), backend(1), failure)]);
        assert_eq!(told_of.follow(&failed(&[1], start), &served, start + SECOND), []);
        assert_eq!(told_of.next(), None, "the planes wake the loop up");
        // It answers for a moment, and fails again.
        assert_eq!(told_of.follow(&failed(&[], start), &served, start + 2 * SECOND), []);
        assert_eq!(told_of.next(), Some(start + 2 * SECOND + CALM));
        assert_eq!(told_of.follow(&failed(&[1], start), &served, start + 3 * SECOND), []);
        assert_eq!(told_of.follow(&failed(&[], start), &served, start + 60 * SECOND), []);
        let lines = told_of.follow(&failed(&[], start), &served, start + 60 * SECOND + CALM);
        assert_eq!(lines, [Line::Back(service, frontend(), backend(1), 60 * SECOND)]);
        assert_eq!(told_of.problems().count(), 0, "the other backend lives");
        assert_eq!(told_of.next(), None);
    }

    #[test]
    fn nothing_is_said_of_a_dead_backend_that_is_removed() {
        let (mut told_of, start) = (DeadBackends::default(), clock::now_std());
        told_of.follow(&failed(&[1], start), &serving(&[1, 2]), start);
        assert_eq!(told_of.follow(&failed(&[], start), &serving(&[2]), start + CALM), []);
        assert_eq!(told_of.follow(&failed(&[], start), &serving(&[1, 2]), start + 5 * CALM), []);
        let mut other = failed(&[1, 2], start);
        retain_used(&mut other, &serving(&[2]));
        assert_eq!(other, failed(&[2], start));
    }

    #[test]
    fn a_frontend_without_a_living_backend_is_a_problem_after_a_while_and_until_one_lives_for_a_while() {
        let (mut told_of, start, served) = (DeadBackends::default(), clock::now_std(), serving(&[1, 2]));
        let mut problems = |dead: &[u8], after: Duration| {
            told_of.follow(&failed(dead, start), &served, start + after);
            (told_of.problems().count(), told_of.next().map(|next| next - start))
        };
        assert_eq!(problems(&[1, 2], SECOND), (0, Some(SECOND + PATIENCE)));
        assert_eq!(problems(&[1], 2 * SECOND).0, 0, "one lived: it begins anew");
        assert_eq!(problems(&[1, 2], 4 * SECOND), (0, Some(4 * SECOND + PATIENCE)));
        assert_eq!(problems(&[1, 2], 4 * SECOND + PATIENCE), (1, None));
        assert_eq!(problems(&[1], 20 * SECOND), (1, Some(20 * SECOND + CALM)));
        assert_eq!(problems(&[1, 2], 21 * SECOND), (1, None), "it came back for a moment only");
        assert_eq!(problems(&[], 30 * SECOND).0, 1);
        assert_eq!(problems(&[], 30 * SECOND + CALM), (0, None));
    }

    #[test]
    fn the_lines_of_a_minute_are_limited() {
        let (mut told_of, now) = (DeadBackends::default(), clock::now_std());
        let all: Vec<u8> = (1..=200).collect();
        let lines = told_of.follow(&failed(&all, now), &serving(&all), now);
        assert_eq!((told(&lines), lines.last()), ((100, 0), Some(&Line::Full)));
    }
}
