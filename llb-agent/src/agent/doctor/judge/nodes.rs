// SPDX-License-Identifier: Apache-2.0
//! Whether Nodes answer. Pure.

use std::net::SocketAddr;

use super::super::check::CheckId;
use super::super::facts::{Answer, Reached, Source};
use super::super::finding::Finding;
use crate::config::{BackendMode, Config};
use crate::model::Family;

pub(super) fn judge(config: &Config, source: &Source, reached: &Reached) -> Vec<Finding> {
    let Some(snapshot) = &source.snapshot else { return Vec::new() };
    if config.policy.backends == BackendMode::Endpoints {
        return Vec::new();
    }
    if reached.answers.is_empty() {
        if snapshot.nodes.is_empty() && config.policy.backends == BackendMode::Auto {
            return vec![Finding::ok(CheckId::Nodes, "there are no Nodes; traffic goes to endpoints")];
        }
        let action =
            "check --node-selector, and the label node.kubernetes.io/exclude-from-external-load-balancers";
        return vec![Finding::error(CheckId::Nodes, "no Node can be used", action)];
    }
    let mut findings = nodes(reached);
    findings.push(node_port(reached));
    findings
}

fn nodes(reached: &Reached) -> Vec<Finding> {
    let answers_it = |answer: Answer| matches!(answer, Answer::Accepted | Answer::Refused);
    let answering = reached.answers.iter().filter(|(.., answer)| answers_it(*answer)).count();
    let is_any = |family| {
        let mut answers = reached.answers.iter();
        answers.any(|(_, address, answer)| Family::of(address.ip()) == family && answers_it(*answer))
    };
    let lost = reached.answers.iter().filter(|(.., answer)| !answers_it(*answer));
    let findings = lost.map(|(node, address, answer)| {
        let what = format!("it does not answer at {address}");
        let action = way_out(address);
        let finding = match answer {
            // Without a nodePort the port of the kubelet was tried, which a firewall may close.
            _ if answering == 0 && reached.service.is_some() => Finding::error(CheckId::Nodes, what, action),
            Answer::NoRoute => {
                let what = format!("this machine has no route to {address}");
                Finding::skipped(CheckId::Nodes, what, "nothing, if no VIP has this family; or add a route")
            }
            // Other Nodes answer, so clients of this family are served.
            _ if reached.service.is_none() || is_any(Family::of(address.ip())) => {
                Finding::warning(CheckId::Nodes, what, action)
            }
            _ => Finding::error(CheckId::Nodes, what, action),
        };
        finding.of(node)
    });
    let mut findings: Vec<Finding> = findings.collect();
    if answering > 0 {
        let rest = match reached.left_out {
            0 => String::new(),
            more => format!("; {more} more were not asked"),
        };
        findings
            .insert(0, Finding::ok(CheckId::Nodes, format!("{answering} addresses of Nodes answer{rest}")));
    }
    findings
}

fn way_out(address: &SocketAddr) -> String {
    let ip = address.ip();
    format!("look at the route to it (ip route get {ip}), at firewalls on the way, and whether it runs")
}

fn node_port(reached: &Reached) -> Finding {
    let Some(service) = &reached.service else {
        let what = "no Service that llb serves has a nodePort over TCP yet";
        return Finding::skipped(CheckId::NodePort, what, "run doctor again when there is one");
    };
    let refusing: Vec<String> = reached
        .answers
        .iter()
        .filter(|(.., answer)| *answer == Answer::Refused)
        .map(|(node, address, _)| format!("{node} ({address})"))
        .collect();
    if refusing.is_empty() {
        let is_any = reached.answers.iter().any(|(.., answer)| *answer == Answer::Accepted);
        if !is_any {
            let what = format!("no Node answers at the nodePort of Service {service}");
            return Finding::skipped(CheckId::NodePort, what, "see the check nodes");
        }
        let what = format!("the nodePort of Service {service} takes connections");
        return Finding::ok(CheckId::NodePort, what);
    }
    Finding::warning(
        CheckId::NodePort,
        format!("the nodePort of Service {service} is refused by {}", refusing.join(", ")),
        "check that kube-proxy runs there, and that the Service has ready Pods",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::finding::Level;
    use super::super::super::sample::config;
    use super::*;
    use crate::model::{Node, Snapshot};

    fn source(nodes: usize) -> Source {
        let nodes = (0..nodes).map(|number| (format!("node-{number}"), Node::default())).collect();
        Source { snapshot: Some(Arc::new(Snapshot { nodes, ..Snapshot::default() })), ..Source::default() }
    }

    fn found(service: Option<&str>, answers: &[Answer]) -> Vec<(CheckId, Level)> {
        let answer = |(number, answer): (usize, &Answer)| {
            (format!("node-{number}"), SocketAddr::from(([192, 0, 2, 31], 30_080)), *answer)
        };
        let answers = answers.iter().enumerate().map(answer).collect();
        let reached = Reached { service: service.map(str::to_owned), answers, ..Reached::default() };
        let findings = judge(&config(&[]), &source(2), &reached);
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn a_silent_node_is_an_error_if_no_other_answers_and_a_refused_port_a_warning() {
        use Answer::{Accepted, NoRoute, Refused, Silent};
        let (nodes, port) = (CheckId::Nodes, CheckId::NodePort);
        let web = Some("default/web");
        assert_eq!(found(web, &[Accepted, Accepted]), [(nodes, Level::Ok), (port, Level::Ok)]);
        let silent = [(nodes, Level::Ok), (nodes, Level::Warning), (port, Level::Ok)];
        assert_eq!(found(web, &[Accepted, Silent]), silent);
        assert_eq!(found(web, &[Silent]), [(nodes, Level::Error), (port, Level::Skipped)]);
        let no_route = [(nodes, Level::Ok), (nodes, Level::Skipped), (port, Level::Ok)];
        assert_eq!(found(web, &[Accepted, NoRoute]), no_route);
        assert_eq!(found(web, &[NoRoute]), [(nodes, Level::Error), (port, Level::Skipped)]);
        assert_eq!(found(web, &[Refused]), [(nodes, Level::Ok), (port, Level::Warning)]);
        assert_eq!(found(None, &[Refused]), [(nodes, Level::Ok), (port, Level::Skipped)]);
        assert_eq!(found(None, &[Silent]), [(nodes, Level::Warning), (port, Level::Skipped)]);
    }

    #[test]
    fn without_usable_nodes_there_is_nobody_to_send_to() {
        let levels = |flags: &[&str], nodes| {
            let findings = judge(&config(flags), &source(nodes), &Reached::default());
            findings.iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&[], 1), [Level::Error]);
        assert_eq!(levels(&[], 0), [Level::Ok]);
        assert_eq!(levels(&["--backends", "nodes"], 0), [Level::Error]);
        assert_eq!(levels(&["--backends", "endpoints"], 1), []);
    }
}
