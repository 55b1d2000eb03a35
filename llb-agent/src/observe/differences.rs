// SPDX-License-Identifier: Apache-2.0
//! What has changed from one report to the next. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{
    Backend, BackendFailure, Frontend, FrontendStatus, LeftOut, Phase, Port, Problem, Protocol,
    PublishedStatus, ServiceName, Subject,
};
use crate::reconcile::Report;

/// Something that is new: the object that it is about, and a text.
pub(super) type Difference = (String, String);

/// How a backend of a frontend is, as far as the loop knows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Health<'a> {
    Up,
    Dead(&'a BackendFailure),
    /// It fails a health check.
    Unhealthy(&'a LeftOut),
}

impl Health<'_> {
    /// The state's name in rows.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Dead(_) => "dead",
            Self::Unhealthy(_) => "unhealthy",
        }
    }
}

/// How this backend of a frontend is.
pub(super) fn health<'a>(report: &'a Report, frontend: &Frontend, backend: &Backend) -> Health<'a> {
    let unhealthy = report.desired.unhealthy.get(frontend).and_then(|all| all.get(backend));
    let dead = report.failed_backends.get(frontend).and_then(|all| all.get(backend));
    match (unhealthy, dead) {
        (Some(why), _) => Health::Unhealthy(why),
        (None, Some(failure)) => Health::Dead(failure),
        (None, None) => Health::Up,
    }
}

/// The backends of a frontend: those of its rule, and those that are left out of it because they fail a check.
pub(super) fn backends(report: &Report, frontend: &Frontend) -> Vec<Backend> {
    let rule = report.observed.frontends.get(frontend).and_then(|status| status.rule.as_ref());
    let of_rule = rule.into_iter().flat_map(|rule| rule.backends.keys());
    let left_out = report.desired.unhealthy.get(frontend).into_iter().flat_map(BTreeMap::keys);
    let mut all: Vec<Backend> = of_rule.chain(left_out).copied().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Everything that has changed, in an order that tells causes before effects.
pub(super) fn differences(before: &Report, after: &Report) -> Vec<Difference> {
    let mut found = Vec::new();
    planes(before, after, &mut found);
    let (old, new) = (&before.observed.frontends, &after.observed.frontends);
    for (frontend, old, new) in unequal(old, new) {
        frontend_changed(frontend, old, new, &mut found);
    }
    for (frontend, status) in new {
        backends_changed((before, after), frontend, status, &mut found);
    }
    for (key, old, _) in unequal(&before.observed.addresses, &after.observed.addresses) {
        let what = if old.is_some() { "is not on" } else { "is on" };
        let service = service_of(key.address, after).or_else(|| service_of(key.address, before));
        let object = service.map_or_else(|| format!("link {}", key.link), object);
        found.push((object, format!("VIP {} {what} {}", key.address, key.link)));
    }
    for (name, old, new) in unequal(&before.observed.statuses, &after.observed.statuses) {
        let is_ours = |report: &Report| report.desired.statuses.contains_key(name);
        if is_ours(before) || is_ours(after) {
            status_changed(name, old, new, &mut found);
        }
    }
    problems(before, after, &mut found);
    found
}

fn object(service: &ServiceName) -> String {
    Subject::Service(service.clone()).to_string()
}

/// The Service with a frontend on this VIP; one of them, if several share it.
fn service_of(vip: IpAddr, report: &Report) -> Option<&ServiceName> {
    let first = Frontend { vip, port: Port::new(1)?, protocol: Protocol::Tcp };
    let (frontend, rule) = report.desired.frontends.range(first..).next()?;
    (frontend.vip == vip).then_some(&rule.service)
}

/// The entries that are new, gone or other ones.
fn unequal<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let gone = before.iter().filter(|(key, _)| !after.contains_key(key));
    let gone = gone.map(|(key, value)| (key, Some(value), None));
    let other = after.iter().filter_map(|(key, value)| {
        let old = before.get(key);
        (old != Some(value)).then_some((key, old, Some(value)))
    });
    gone.chain(other)
}

fn planes(before: &Report, after: &Report, found: &mut Vec<Difference>) {
    for link in &after.planes.links {
        if !before.planes.links.contains(link) {
            let what = format!("packet plane at {} ({})", link.hook, link.why);
            found.push((format!("link {}", link.link), what));
        }
    }
    for link in &before.planes.links {
        if !after.planes.links.iter().any(|other| other.link == link.link) {
            found.push((format!("link {}", link.link), "no packet plane any more".to_owned()));
        }
    }
    if let (Some(why), true) =
        (&after.planes.no_packet_plane, before.planes.no_packet_plane != after.planes.no_packet_plane)
    {
        found.push(("this agent".to_owned(), format!("no packet plane: {why}")));
    }
}

fn frontend_changed(
    frontend: &Frontend,
    before: Option<&FrontendStatus>,
    after: Option<&FrontendStatus>,
    found: &mut Vec<Difference>,
) {
    let rule = after.and_then(|status| status.rule.as_ref());
    let rule = rule.or_else(|| before.and_then(|status| status.rule.as_ref()));
    let object = rule.map_or_else(|| format!("frontend {frontend}"), |rule| object(&rule.service));
    let Some(after) = after else { return found.push((object, format!("{frontend} is gone"))) };
    let seen = |status: &FrontendStatus| (status.phase, status.placement.plane, status.placement.mode);
    if before.map(seen) == Some(seen(after)) {
        return;
    }
    let phase = match after.phase {
        Phase::Serving => "serves",
        Phase::Draining => "drains",
    };
    let mode = after.placement.mode.map(|mode| format!(", {mode}")).unwrap_or_default();
    let why = after.placement.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let plane = after.placement.plane;
    let moved = before.filter(|before| before.phase == after.phase);
    let what = match moved {
        Some(before) => format!("{frontend} has moved from {} to {plane}{mode}{why}", before.placement.plane),
        None => format!("{frontend} {phase}: {plane}{mode}{why}"),
    };
    found.push((object, what));
}

fn backends_changed(
    (before, after): (&Report, &Report),
    frontend: &Frontend,
    status: &FrontendStatus,
    found: &mut Vec<Difference>,
) {
    let Some(rule) = &status.rule else { return };
    let rule_before = before.observed.frontends.get(frontend).and_then(|status| status.rule.as_ref());
    // The frontend itself is new: its backends are not told one by one.
    let Some(rule_before) = rule_before else { return };
    if Arc::ptr_eq(rule, rule_before)
        && before.failed_backends.get(frontend) == after.failed_backends.get(frontend)
        && before.desired.unhealthy.get(frontend) == after.desired.unhealthy.get(frontend)
    {
        return;
    }
    let (old, new) = (backends(before, frontend), backends(after, frontend));
    let mut tell = |backend: &Backend, what: String| {
        found.push((object(&rule.service), format!("{frontend}: backend {backend} {what}")));
    };
    for backend in old.iter().filter(|backend| new.binary_search(backend).is_err()) {
        tell(backend, "is removed".to_owned());
    }
    for backend in &new {
        let is_new = old.binary_search(backend).is_err();
        match (health(before, frontend, backend), health(after, frontend, backend)) {
            (Health::Up, Health::Up) if is_new => tell(backend, "is added".to_owned()),
            (Health::Up, Health::Up) => {}
            (Health::Dead(_), Health::Up) => tell(backend, "answers again".to_owned()),
            (Health::Unhealthy(_), Health::Up) => tell(backend, "is healthy again".to_owned()),
            // How it failed last may change with each try.
            (Health::Dead(_), Health::Dead(_)) | (Health::Unhealthy(_), Health::Unhealthy(_)) => {}
            (_, Health::Dead(failure)) => tell(backend, format!("is dead: {}", failure.why)),
            (_, Health::Unhealthy(why)) => tell(backend, format!("is unhealthy: {why}")),
        }
    }
}

fn status_changed(
    name: &ServiceName,
    before: Option<&PublishedStatus>,
    after: Option<&PublishedStatus>,
    found: &mut Vec<Difference>,
) {
    let vips = |status: Option<&PublishedStatus>| status.map(PublishedStatus::addresses).unwrap_or_default();
    let (before, after) = (vips(before), vips(after));
    let list: Vec<String> = after.iter().map(ToString::to_string).collect();
    match list.is_empty() {
        _ if before == after => {}
        true => found.push((object(name), "status cleared".to_owned())),
        false => found.push((object(name), format!("published: {}", list.join(", ")))),
    }
}

fn problems(before: &Report, after: &Report, found: &mut Vec<Difference>) {
    let mut tell = |problem: &Problem, what: &str| {
        let Problem { subject, reason, message } = problem;
        found.push((subject.to_string(), format!("{what} {reason:?}: {message}")));
    };
    let (old, new) = (sorted(&before.problems), sorted(&after.problems));
    new.iter().filter(|problem| old.binary_search(problem).is_err()).for_each(|new| tell(new, "problem"));
    old.iter()
        .filter(|problem| new.binary_search(problem).is_err())
        .for_each(|old| tell(old, "over: problem"));
}

fn sorted(problems: &[Problem]) -> Vec<&Problem> {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}
