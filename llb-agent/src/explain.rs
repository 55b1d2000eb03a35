// SPDX-License-Identifier: Apache-2.0
//! What is served for a Service, by which plane, and why: text from what the
//! running agent reports. Pure. `agent/explain.rs` is the subcommand that asks for it.

use std::fmt::Write as _;

use crate::dataplane::BackendStates;
use crate::model::{Frontend, FrontendStatus, PlaneKind, PublishedStatus, ServiceName, Subject};
use crate::reconcile::Report;

/// Everything about one Service as text; `None` if this agent does not serve it.
pub(crate) fn explain(report: &Report, states: &BackendStates, name: &ServiceName) -> Option<String> {
    let mut frontends = report.observed.frontends.iter().filter(|(_, status)| status.is_of(name));
    let problems = report.problems.iter().filter(|problem| problem.subject == Subject::Service(name.clone()));
    let problems: Vec<_> = problems.collect();
    let published = report.observed.statuses.get(name);
    if !report.desired.statuses.contains_key(name)
        && problems.is_empty()
        && frontends.clone().next().is_none()
    {
        return None;
    }
    let mut text = format!("Service {name}\n");
    for frontend in report.desired.frontends.iter().filter(|(_, rule)| rule.service == *name) {
        if !report.observed.frontends.contains_key(frontend.0) {
            let _ = writeln!(text, "  {}  not served yet", frontend.0);
        }
    }
    let mut vip = None;
    frontends
        .try_for_each(|(frontend, status)| {
            if vip.replace(frontend.vip) != Some(frontend.vip) {
                writeln!(text, "  VIP {}{}", frontend.vip, location(report, published, frontend))?;
            }
            frontend_text(&mut text, states, frontend, status)?;
            health_text(&mut text, report, frontend)
        })
        .ok()?;
    for problem in problems {
        let _ = writeln!(text, "  problem {:?}: {}", problem.reason, problem.message);
    }
    for link in &report.planes.links {
        let _ = writeln!(text, "link {}: packet plane at {} ({})", link.link, link.hook, link.why);
    }
    if let Some(why) = &report.planes.no_packet_plane {
        let _ = writeln!(text, "no packet plane: {why}");
    }
    Some(text)
}

/// Writes the backends of a frontend that fail a health check.
fn health_text(text: &mut String, report: &Report, frontend: &Frontend) -> std::fmt::Result {
    for (backend, why) in report.desired.unhealthy.get(frontend).into_iter().flatten() {
        writeln!(text, "      {backend}  unhealthy: {why}")?;
    }
    Ok(())
}

/// Where the VIP of a frontend is, and how it is published.
fn location(report: &Report, published: Option<&PublishedStatus>, frontend: &Frontend) -> String {
    let on_link = report.observed.addresses.keys().find(|key| key.address == frontend.vip);
    let link = match on_link {
        Some(key) => format!(" on {}", key.link),
        None => " (one of this machine's own addresses, or not on a link yet)".to_owned(),
    };
    let vip = published.and_then(|status| status.vips.iter().find(|vip| vip.ip == frontend.vip));
    let status = match vip {
        Some(vip) => format!(", published with ipMode {}", if vip.proxy { "Proxy" } else { "VIP" }),
        None => ", not published".to_owned(),
    };
    link + &status
}

/// Writes one frontend with its backends.
fn frontend_text(
    text: &mut String,
    states: &BackendStates,
    frontend: &Frontend,
    status: &FrontendStatus,
) -> std::fmt::Result {
    let placement = &status.placement;
    let plane = match (placement.plane, placement.mode) {
        (PlaneKind::Packet, Some(mode)) => format!("packet plane, {mode}"),
        (PlaneKind::Packet, None) => "packet plane".to_owned(),
        (PlaneKind::Sockmap, _) => "relay, sockmap".to_owned(),
        (PlaneKind::Userspace, _) => "relay in user space".to_owned(),
    };
    let phase = format!("{:?}", status.phase).to_lowercase();
    let why = placement.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let Some(rule) = &status.rule else {
        return writeln!(text, "    {frontend}  {phase}  {plane}{why}");
    };
    writeln!(text, "    {frontend}  {phase}  {plane}{why}{}", rule.terms)?;
    let known = states.of(frontend);
    if known.is_empty() && rule.backends.is_empty() {
        return writeln!(text, "      no backends: refused");
    }
    for backend in &known {
        let weight = rule.backends.get(&backend.backend).map_or(0, |weight| weight.get());
        let flows = backend.flows.map(|flows| format!(", {flows} flows")).unwrap_or_default();
        writeln!(text, "      {}  {}, weight {weight}{flows}", backend.backend, backend.state)?;
    }
    let is_missing = |backend: &&_| !known.iter().any(|known| known.backend == **backend);
    for (backend, weight) in rule.backends.iter().filter(|(backend, _)| is_missing(backend)) {
        writeln!(text, "      {backend}  weight {weight}")?;
    }
    Ok(())
}
