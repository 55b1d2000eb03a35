// SPDX-License-Identifier: Apache-2.0
//! Manifests in, desired state and actions out, as text. No privilege, no clock.
//!
//! A case is a file in `cases/`: sections that begin with `=== name`.
//! `flags`, `link` (one address each) and `host` say what is configured and what the
//! machine has; each `manifests` is one snapshot, and the `expected` behind it
//! what follows from it, after the actions of the snapshots before were done.
//! `LLB_BLESS=1 cargo test -p llb-tests --test golden` writes what is true now
//! into the files; read the diff.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop where it is")]

mod case;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use case::{Case, Section};
use clap::Parser;
use llb_agent::config::{Cli, Invocation, Policy};
use llb_agent::desired::{Held, Inputs, compile};
use llb_agent::model::{
    Facts, FrontendStatus, Host, Link, LinkAddress, Observed, Phase, Problem, ProblemReason, ReservedFor,
    State,
};
use llb_agent::plan::{Action, hold_statuses, plan};
use llb_agent::source::snapshot_of;

#[test]
fn every_case_gives_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/cases");
    #[expect(clippy::disallowed_methods, reason = "a switch for the person who changes the cases")]
    let bless = std::env::var("LLB_BLESS").is_ok();
    let mut reasons = BTreeSet::new();
    let mut failures = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let case = Case::parse(&text);
        let told = run(&case, &mut reasons);
        if told != text && bless {
            std::fs::write(&path, told).unwrap();
        } else if told != text {
            failures.push(format!("{}:\n{}", path.display(), first_difference(&text, &told)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(missing(&reasons), BTreeSet::new(), "reasons of problems that no case reaches");
}

/// Every reason that desired state or conversion can give is reached by a case.
fn missing(reached: &BTreeSet<ProblemReason>) -> BTreeSet<ProblemReason> {
    use ProblemReason::{
        AddressNotAllowed, AffinityAtNodes, ForeignAnnotation, FrontendCollision, InvalidValue, LinkMissing,
        NoAddressOfFamily, NoBackends, NoEligibleNodes, NoNodePort, NoSubnet, PoolExhausted, PoolNotAllowed,
        PortNotAllowed, UnknownName, UnsupportedProtocol, VipNotShared,
    };
    let all = BTreeSet::from([
        AddressNotAllowed,
        PortNotAllowed,
        VipNotShared,
        AffinityAtNodes,
        ForeignAnnotation,
        UnknownName,
        FrontendCollision,
        InvalidValue,
        LinkMissing,
        NoAddressOfFamily,
        NoBackends,
        NoEligibleNodes,
        NoNodePort,
        NoSubnet,
        PoolExhausted,
        PoolNotAllowed,
        UnsupportedProtocol,
    ]);
    all.difference(reached).copied().collect()
}

/// The case's text, with what is true now in its `expected` sections.
fn run(case: &Case, reasons: &mut BTreeSet<ProblemReason>) -> String {
    let policy = policy(&case.flags);
    let mut links = links(&case.links);
    let host = host(&case.host);
    let mut observed = Observed::default();
    let mut told = case.head.clone();
    for section in &case.sections {
        let Section::Manifests { text } = section else { continue };
        let snapshot = snapshot_of(text.as_bytes(), policy.foreign_annotations).unwrap();
        for (name, service) in &snapshot.services {
            if !service.status.vips.is_empty() {
                observed.statuses.entry(name.clone()).or_insert_with(|| service.status.clone());
            }
        }
        observed.statuses.retain(|name, _| snapshot.services.contains_key(name));
        let held: Held = observed.statuses.clone();
        let facts = Facts { links: links.clone(), host: host.clone() };
        let inputs = Inputs { snapshot: &snapshot, facts: &facts, policy: &policy, held: &held };
        let (desired, problems) = compile(inputs);
        reasons.extend(problems.iter().map(|problem| problem.reason));
        let rounds = settle(&desired, &mut observed, &mut links);
        write!(told, "=== manifests\n{text}=== expected\n{}", shown(&desired, &rounds, &problems)).unwrap();
    }
    told
}

fn policy(flags: &str) -> Policy {
    let args =
        ["llb-agent", "--linkdevice", "eth0", "--manifests", "."].into_iter().chain(flags.split_whitespace());
    match Cli::try_parse_from(args).unwrap().invocation().unwrap() {
        Invocation::Serve(config) => config.policy,
        Invocation::Detach { .. } | Invocation::Explain { .. } | Invocation::Trace { .. } => {
            panic!("a case serves")
        }
    }
}

/// Lines of `api|gateway|resolver ADDRESS`, `other-link NAME ADDRESS` and `ephemeral-ports FIRST-LAST`.
fn host(text: &str) -> Host {
    let mut host = Host::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (address, what) = match words[..] {
            ["api", address] => (address, ReservedFor::ApiServer),
            ["gateway", address] => (address, ReservedFor::Gateway),
            ["resolver", address] => (address, ReservedFor::Resolver),
            ["other-link", name, address] => (address, ReservedFor::Link(name.to_owned())),
            ["ephemeral-ports", range] => {
                let (first, last) = range.split_once('-').unwrap();
                host.ephemeral_ports = Some(first.parse().unwrap()..=last.parse().unwrap());
                continue;
            }
            _ => panic!("unknown line in host: {line}"),
        };
        host.reserved.insert(address.parse().unwrap(), what);
    }
    host
}

/// Lines of `NAME ADDRESS/BITS`; the first address of a family is the primary one.
fn links(text: &str) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    for line in text.lines() {
        let (name, net) = line.split_once(' ').unwrap();
        let address = LinkAddress { net: net.parse().unwrap(), ours: false, primary: true };
        match links.iter_mut().find(|link| link.name == name) {
            Some(link) => link.addresses.push(address),
            None => links.push(Link { name: name.to_owned(), addresses: vec![address] }),
        }
    }
    links
}

/// Plans and acts, as if every action succeeded, until nothing is left.
fn settle(desired: &State, observed: &mut Observed, links: &mut [Link]) -> Vec<Vec<Action>> {
    let mut rounds = Vec::new();
    loop {
        let actions = hold_statuses(plan(desired, observed), &BTreeSet::new(), desired);
        if actions.is_empty() {
            return rounds;
        }
        assert!(rounds.len() < 8, "no end in sight: {actions:?}");
        for action in actions.clone() {
            apply(action, observed, links);
        }
        rounds.push(actions);
    }
}

fn apply(action: Action, observed: &mut Observed, links: &mut [Link]) {
    match action {
        Action::UpsertFrontend { frontend, rule } => {
            observed.frontends.insert(frontend, FrontendStatus::relayed(rule, Phase::Serving));
        }
        Action::RemoveFrontend { frontend } => {
            observed.frontends.remove(&frontend);
        }
        Action::AddAddress { key, prefix_length } => {
            let link = links.iter_mut().find(|link| link.name == key.link).unwrap();
            let net = ipnet::IpNet::new(key.address, prefix_length).unwrap();
            link.addresses.push(LinkAddress { net, ours: true, primary: false });
            observed.addresses.insert(key, prefix_length);
        }
        Action::RemoveAddress { key, .. } => {
            let link = links.iter_mut().find(|link| link.name == key.link).unwrap();
            link.addresses.retain(|known| known.net.addr() != key.address);
            observed.addresses.remove(&key);
        }
        Action::WriteStatus { service, status } if status.vips.is_empty() => {
            observed.statuses.remove(&service);
        }
        Action::WriteStatus { service, status } => {
            observed.statuses.insert(service, status);
        }
    }
}

fn shown(desired: &State, rounds: &[Vec<Action>], problems: &[Problem]) -> String {
    let mut text = String::new();
    for (frontend, rule) in &desired.frontends {
        let backends = rule.backends.iter().map(|(backend, weight)| match weight.get() {
            1 => backend.to_string(),
            weight => format!("{weight} x {backend}"),
        });
        let backends = backends.collect::<Vec<_>>().join(", ");
        writeln!(text, "frontend {frontend} -> [{backends}]{}", rule.terms).unwrap();
    }
    for (key, prefix_length) in &desired.addresses {
        writeln!(text, "address {}/{prefix_length} on {}", key.address, key.link).unwrap();
    }
    for (service, status) in &desired.statuses {
        let vips = status.vips.iter().map(|vip| {
            let ports = vip.ports.iter().map(|port| match &port.error {
                None => format!("{}/{}", port.port, port.protocol),
                Some(error) => format!("{}/{} ({error})", port.port, port.protocol),
            });
            format!("{} {}", vip.ip, ports.collect::<Vec<_>>().join(" "))
        });
        writeln!(text, "status {service}: [{}]", vips.collect::<Vec<_>>().join(", ")).unwrap();
    }
    for (number, actions) in rounds.iter().enumerate() {
        for action in actions {
            writeln!(text, "action {}: {action}", number + 1).unwrap();
        }
    }
    for problem in problems {
        writeln!(text, "problem {problem}").unwrap();
    }
    text
}

fn first_difference(expected: &str, told: &str) -> String {
    let longest = expected.lines().count().max(told.lines().count());
    let pairs =
        (0..longest).map(|number| (number + 1, expected.lines().nth(number), told.lines().nth(number)));
    let different = pairs.into_iter().filter(|(_, expected, told)| expected != told).take(3);
    different.fold(String::new(), |text, (number, expected, told)| {
        format!(
            "{text}  line {number}\n    expected: {}\n    got:      {}\n",
            expected.unwrap_or("(end)"),
            told.unwrap_or("(end)")
        )
    })
}
