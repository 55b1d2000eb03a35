// SPDX-License-Identifier: Apache-2.0
//! What is served for a Service, by which plane, and why: text from what the
//! running agent reports. Pure. `agent/explain.rs` is the subcommand that asks for it.

use std::fmt::Write as _;
use std::time::Instant;

use crate::dataplane::BackendStates;
use crate::model::{
    Backend, BackendStatus, Frontend, FrontendStatus, Mode, PlacementReason, PlaneKind, Problem,
    PublishedStatus, ServiceName, Subject, Terms, VIP_LINK, share_of,
};
use crate::reconcile::Report;

/// What is known about one Service.
pub(crate) enum Explanation {
    /// The agent serves it, or has a problem with it.
    Known(String),
    /// The agent does not serve it.
    NotServed(String),
    /// The agent can't tell yet.
    Starting(String),
}

/// Everything about one Service as text. `now` is the time by which the age of failures is told.
pub(crate) fn explain(
    report: &Report,
    states: &BackendStates,
    name: &ServiceName,
    now: Instant,
) -> Explanation {
    if !report.has_snapshot {
        return Explanation::Starting(starting(report, name));
    }
    let frontends = report.observed.frontends.iter().filter(|(_, status)| status.is_of(name));
    let needs_packets =
        |status: &FrontendStatus| matches!(status.placement.why, Some(PlacementReason::NoPacketPlane(_)));
    let is_said = frontends.clone().any(|(_, status)| needs_packets(status));
    let subject = Subject::Service(name.clone());
    let problems: Vec<&Problem> =
        report.problems.iter().filter(|problem| problem.subject == subject).collect();
    let published = report.observed.statuses.get(name);
    if !report.desired.statuses.contains_key(name)
        && problems.is_empty()
        && frontends.clone().next().is_none()
    {
        return Explanation::NotServed(not_served(report, name));
    }
    let mut text = format!("Service {name}\n");
    if report.is_blind {
        text.push_str("  the links can't be read now: what follows is from before that\n");
    }
    for frontend in report.desired.frontends.iter().filter(|(_, rule)| rule.service == *name) {
        if !report.observed.frontends.contains_key(frontend.0) {
            let _ = writeln!(text, "  {}  not served yet", frontend.0);
        }
    }
    let mut vip = None;
    for (frontend, status) in frontends {
        if vip.replace(frontend.vip) != Some(frontend.vip) {
            let _ = writeln!(text, "  VIP {}{}", frontend.vip, location(report, published, frontend));
        }
        frontend_text(&mut text, report, states, (frontend, status), now);
        health_text(&mut text, report, frontend);
    }
    for problem in problems {
        let _ = writeln!(text, "  problem {:?}: {}", problem.reason, problem.message);
    }
    for link in &report.planes.links {
        let _ = writeln!(text, "link {}: packet plane at {} ({})", link.link, link.hook, link.why);
    }
    for link in &report.planes.links_without_header {
        let _ = writeln!(text, "link {link}: no packet plane (no Ethernet header); what needs it is relayed");
    }
    for problem in report.problems.iter().filter(|problem| matches!(problem.subject, Subject::Link(_))) {
        let _ = writeln!(text, "{}: problem {:?}: {}", problem.subject, problem.reason, problem.message);
    }
    // A relayed frontend has said it already, and the reason may be long.
    if let Some(why) = report.planes.no_packet_plane.as_ref().filter(|_| !is_said) {
        let _ = writeln!(text, "no packet plane: {why}");
    }
    Explanation::Known(text)
}

/// Nothing is known about Services yet.
fn starting(report: &Report, name: &ServiceName) -> String {
    let mut text = format!(
        "this agent is starting: it has no complete list of Services, Nodes and endpoints yet, so it can't tell \
         whether it serves Service {name}. What an earlier agent's packet programs forward goes on\n"
    );
    source_problems(&mut text, report);
    text
}

fn not_served(report: &Report, name: &ServiceName) -> String {
    let mut text = format!(
        "this agent does not serve Service {name}: it does not exist, is not of type LoadBalancer, or has another \
         class or namespace\n"
    );
    if has_source_problem(report) {
        text.push_str("or it is newer than what this agent knows, because its source can't be read now:\n");
        source_problems(&mut text, report);
    }
    text
}

fn has_source_problem(report: &Report) -> bool {
    report.problems.iter().any(|problem| matches!(problem.subject, Subject::Source(_)))
}

fn source_problems(text: &mut String, report: &Report) {
    for problem in report.problems.iter().filter(|problem| matches!(problem.subject, Subject::Source(_))) {
        let _ = writeln!(text, "  problem {problem}");
    }
}

/// Writes the backends of a frontend that fail a health check.
fn health_text(text: &mut String, report: &Report, frontend: &Frontend) {
    for (backend, why) in report.desired.unhealthy.get(frontend).into_iter().flatten() {
        let _ = writeln!(text, "      {backend}  unhealthy: {why}");
    }
}

/// Where the VIP of a frontend is, and how it is published.
fn location(report: &Report, published: Option<&PublishedStatus>, frontend: &Frontend) -> String {
    let on_link = report.observed.addresses.keys().find(|key| key.address == frontend.vip);
    let own = report.facts.all_links().find(|link| link.has_foreign(frontend.vip));
    let elsewhere = report.desired.elsewhere.keys().find(|key| key.address == frontend.vip);
    let link = match (on_link, own) {
        (None, _) if elsewhere.is_some_and(|key| key.link == VIP_LINK) => {
            format!(" (not on {VIP_LINK} now, so routers send no clients here)")
        }
        (None, _) if elsewhere.is_some() => format!(
            " (another box of the group has share {} of {}{})",
            share_of(frontend.vip),
            elsewhere.map(|key| key.link.as_str()).unwrap_or_default(),
            if report.group.as_ref().is_some_and(|group| group.drained) {
                "; this box is drained"
            } else {
                ""
            }
        ),
        (Some(key), _) if key.link == VIP_LINK => {
            format!(" on {VIP_LINK}, where a routing daemon sees it")
        }
        (Some(key), _) => format!(" on {}", key.link),
        (None, Some(link)) => format!(" (the machine's own address on {})", link.name),
        (None, None) => " (not on a link now)".to_owned(),
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
    report: &Report,
    states: &BackendStates,
    (frontend, status): (&Frontend, &FrontendStatus),
    now: Instant,
) {
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
        let _ = writeln!(text, "    {frontend}  {phase}  {plane}{why}");
        return;
    };
    // The plane shows the mode that is used, not the one that is asked for.
    let terms = Terms { mode: None, ..rule.terms.clone() };
    let is_relayed = placement.plane != PlaneKind::Packet;
    let not_dsr =
        if rule.mode == Mode::Dsr && is_relayed { "; not in mode dsr: a relay has no modes" } else { "" };
    let _ = writeln!(text, "    {frontend}  {phase}  {plane}{why}{terms}{not_dsr}");
    if let Some(clients) = &status.other_clients {
        let _ = writeln!(text, "      clients on this machine and behind its other links: {clients}");
    }
    let known = states.of(frontend);
    if known.is_empty() && rule.backends.is_empty() {
        text.push_str("      no backends: refused\n");
    }
    let failed = report.failed_backends.get(frontend);
    let failure = |backend: &Backend| {
        let failure = failed.and_then(|failed| failed.get(backend))?;
        let seconds = now.saturating_duration_since(failure.since).as_secs();
        Some(format!("dead for {seconds} s: {}", failure.why))
    };
    for BackendStatus { backend, state, flows } in &known {
        let weight = rule.backends.get(backend).map_or(0, |weight| weight.get());
        let flows = flows.map(|flows| format!(", {flows} flows")).unwrap_or_default();
        let state = failure(backend).unwrap_or_else(|| state.to_string());
        let _ = writeln!(text, "      {backend}  {state}, weight {weight}{flows}");
    }
    let is_missing = |backend: &&_| !known.iter().any(|known| known.backend == **backend);
    for (backend, weight) in rule.backends.iter().filter(|(backend, _)| is_missing(backend)) {
        let failure = failure(backend).map(|failure| failure + ", ").unwrap_or_default();
        let _ = writeln!(text, "      {backend}  {failure}weight {weight}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::model::{
        BackendFailure, BackendState, FailureReason, Link, LinkAddress, NoPacketPlane, OtherClients, Phase,
        Placement, Port, ProblemReason, Protocol, RelayFeature, Rule, Weight,
    };

    fn web() -> ServiceName {
        ServiceName::new("default", "web")
    }

    fn backend(octet: u8) -> Backend {
        Backend { address: ([192, 0, 2, octet], 30080).into() }
    }

    fn frontend() -> Frontend {
        Frontend { vip: [192, 0, 2, 10].into(), port: Port::new(80).unwrap(), protocol: Protocol::Tcp }
    }

    /// A report about a Service that asks for mode DSR, on the machine's own address.
    fn report(placement: Placement) -> Report {
        let backends = [31, 32].map(|octet| (backend(octet), Weight::MIN)).into();
        let terms = Terms { mode: Some(Mode::Dsr), ..Terms::default() };
        let rule = Rule { mode: Mode::Dsr, ..Rule::new(web(), backends, terms) };
        let mut report = Report { ready: true, has_snapshot: true, ..Report::default() };
        report.observed.frontends = [(
            frontend(),
            FrontendStatus { placement, ..FrontendStatus::relayed(Arc::new(rule), Phase::Serving) },
        )]
        .into();
        let address = LinkAddress { net: "192.0.2.10/24".parse().unwrap(), ours: false, primary: true };
        report.facts.links = vec![Link { name: "eth0".to_owned(), addresses: vec![address] }];
        report
    }

    fn relayed() -> Report {
        report(Placement {
            why: Some(PlacementReason::NeedsRelay(RelayFeature::MaxConnections)),
            ..Placement::default()
        })
    }

    fn source_problem() -> Problem {
        let subject = Subject::Source("Kubernetes API".to_owned());
        Problem { subject, reason: ProblemReason::SourceUnavailable, message: "away".to_owned() }
    }

    fn text(report: &Report, states: &BackendStates, name: &ServiceName, now: Instant) -> String {
        match explain(report, states, name, now) {
            Explanation::Known(text) => text,
            Explanation::NotServed(text) => format!("404 {text}"),
            Explanation::Starting(text) => format!("503 {text}"),
        }
    }

    #[test]
    fn an_agent_without_a_snapshot_says_that_it_is_starting() {
        let report = Report { problems: vec![source_problem()], ..Report::default() };
        let text = text(&report, &BackendStates::default(), &web(), clock::now_std());
        assert!(text.starts_with("503 this agent is starting: it has no complete list"), "{text}");
        assert!(text.ends_with("\n  problem Kubernetes API: SourceUnavailable: away\n"), "{text}");
    }

    #[test]
    fn a_service_that_is_not_known_may_be_new_while_the_api_is_away() {
        let other = ServiceName::new("default", "other");
        let told = |report: &Report| text(report, &BackendStates::default(), &other, clock::now_std());
        let mut report = relayed();
        assert!(told(&report).ends_with("or has another class or namespace\n"), "{}", told(&report));
        report.problems.push(source_problem());
        assert!(told(&report).contains("or it is newer than what this agent knows"), "{}", told(&report));
    }

    #[test]
    fn a_relay_shows_dead_backends_and_no_mode() {
        let (mut report, now) = (relayed(), clock::now_std());
        let failure = BackendFailure { why: FailureReason::Refused, since: now };
        report.failed_backends = [(frontend(), [(backend(32), failure)].into())].into();
        let later = now + Duration::from_secs(12);
        assert_eq!(
            text(&report, &BackendStates::default(), &web(), later),
            "Service default/web\n  \
             VIP 192.0.2.10 (the machine's own address on eth0), not published\n    \
             192.0.2.10:80/TCP  serving  relay in user space (only the relay counts connections \
             (llb.dev/max-connections)); not in mode dsr: a relay has no modes\n      \
             192.0.2.31:30080  weight 1\n      \
             192.0.2.32:30080  dead for 12 s: it refused a connection, weight 1\n"
        );
    }

    #[test]
    fn why_there_is_no_packet_plane_is_said_once() {
        let off = NoPacketPlane::Failed { error: "the kernel rejected it".to_owned() };
        let why = Some(PlacementReason::NoPacketPlane(off.clone()));
        for (why, expected) in [
            (why, "relay in user space (no packet plane: the kernel rejected it)"),
            (None, "\nno packet plane: the kernel rejected it\n"),
        ] {
            let mut report = report(Placement { plane: PlaneKind::Userspace, mode: None, why });
            report.planes.no_packet_plane = Some(off.clone());
            let text = text(&report, &BackendStates::default(), &web(), clock::now_std());
            assert!(text.contains(expected) && text.matches("rejected").count() == 1, "{text}");
        }
    }

    #[test]
    fn clients_that_no_program_sees_have_a_line_of_their_own() {
        let placement = Placement { plane: PlaneKind::Packet, mode: Some(Mode::Dsr), why: None };
        let told = |clients: OtherClients| {
            let mut report = report(placement.clone());
            report.planes.links_without_header = vec!["wg0".to_owned()];
            report.observed.frontends.get_mut(&frontend()).unwrap().other_clients = Some(clients);
            text(&report, &BackendStates::default(), &web(), clock::now_std())
        };
        let relayed = told(OtherClients::Relayed);
        let line = "dsr\n      clients on this machine and behind its other links: relayed; \
                    backends see this machine's address\n      192.0.2.31:30080";
        assert!(relayed.contains(line), "{relayed}");
        let end = "\nlink wg0: no packet plane (no Ethernet header); what needs it is relayed\n";
        assert!(relayed.ends_with(end), "{relayed}");
        let refused = told(OtherClients::NotServed { why: "in use".to_owned() });
        assert!(refused.contains("behind its other links: not served: in use\n"), "{refused}");
    }

    #[test]
    fn the_packet_plane_shows_dead_and_removed_backends_and_links_with_problems() {
        let placement = Placement { plane: PlaneKind::Packet, mode: Some(Mode::Dsr), why: None };
        let (mut report, now) = (report(placement), clock::now_std());
        report.facts.links.clear();
        let failure = BackendFailure { why: FailureReason::NoNeighbour, since: now };
        report.failed_backends = [(frontend(), [(backend(31), failure)].into())].into();
        let subject = Subject::Link("eth0".to_owned());
        report.problems.push(Problem {
            subject,
            reason: ProblemReason::XdpLosesPackets,
            message: "lost".to_owned(),
        });
        let states = BackendStates::new(|_| {
            let states = [BackendState::Unreachable, BackendState::Active, BackendState::Removed];
            let status = |(state, octet)| BackendStatus { backend: backend(octet), state, flows: Some(3) };
            states.into_iter().zip(31..).map(status).collect()
        });
        assert_eq!(
            text(&report, &states, &web(), now),
            "Service default/web\n  \
             VIP 192.0.2.10 (not on a link now), not published\n    \
             192.0.2.10:80/TCP  serving  packet plane, dsr\n      \
             192.0.2.31:30080  dead for 0 s: no neighbour: nobody answers ARP or neighbour discovery, weight 1, 3 flows\n      \
             192.0.2.32:30080  active, weight 1, 3 flows\n      \
             192.0.2.33:30080  removed, weight 0, 3 flows\n\
             link eth0: problem XdpLosesPackets: lost\n"
        );
    }
}
