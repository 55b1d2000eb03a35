// SPDX-License-Identifier: Apache-2.0
//! Manifests in, desired state and actions out, as text. No privileges, no clock.
//!
//! A case is a file in `cases/`, with sections that begin with `=== name`. `flags` has the agent's flags, `link` the
//! machine's addresses, one a line, `host` what the machine itself needs, and `health` what came of health checks.
//! Each `manifests` is one snapshot; a `config-map` before it has pools from then on. The `expected` behind it has what follows from that snapshot, after all actions
//! of the snapshots before it were done. If a section `maps` follows, it has
//! the writes with which the packet plane would fill empty maps for this snapshot; a section `pools` has their usage.
//! `LLB_BLESS=1 cargo test -p llb-tests --test golden` writes the present results into the files; read the diff.
//!
//! Every action is taken to succeed at once, and every VIP to be free: the plan's probes have come before. A green
//! test does not prove that the machine accepts the actions, nor what llb does when one fails: tests/simulation and
//! tests/lab do.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod case;
mod deploy;
mod surroundings;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use case::{Case, Snapshot};
use ipnet::IpNet;
use llb_agent::config::example;
use llb_agent::dataplane::packet::image::render;
use llb_agent::desired::{Held, Inputs, compile, pods_that_need_routes, with_cluster_pools};
use llb_agent::model::{
    AddressKey, Facts, FrontendStatus, Link, LinkAddress, Observed, Phase, PoolUsage, Problem, ProblemReason,
    ServiceName, State, VIP_LINK,
};
use llb_agent::plan::{Action, hold_back, plan};
use llb_agent::source::snapshot_of;
use llb_tests::environment::blesses_golden_cases;
use surroundings::{CONFIG_MAP, follow_pools, holding, host, links, policy, service_ranges, verdicts};

#[test]
fn every_case_gives_its_expected_text() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/cases");
    let bless = blesses_golden_cases();
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

/// `deploy/llb.toml` has the texts and defaults of the flags as they are now.
#[test]
fn the_example_of_the_configuration_file_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/llb.toml");
    let (text, told) = (std::fs::read_to_string(&path).unwrap_or_default(), example());
    if blesses_golden_cases() {
        std::fs::write(&path, &told).unwrap();
    } else {
        assert!(text == told, "{}:\n{}", path.display(), first_difference(&text, &told));
    }
}

/// Whoever may create Services can fill their texts with anything.
#[test]
fn texts_of_the_largest_size_make_short_problems() {
    const SERVICES: usize = 5;
    /// What the API accepts for all annotations of an object is 256 KiB.
    const LONG: usize = 200_000;
    let service = |number: usize, annotation: &str, text: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}, annotations: {{{annotation}: \"{text}\"}}}}\n\
             spec: {{type: LoadBalancer, ports: [{{port: 80, nodePort: 30080}}]}}\n"
        )
    };
    let long = "x".repeat(LONG);
    let many = "y,".repeat(LONG / 2);
    for (annotation, text) in [
        ("llb.dev/vips", &long),
        ("llb.dev/pool", &long),
        ("llb.dev/mode", &long),
        ("llb.dev/balance", &long),
        ("llb.dev/proxy-protocol", &long),
        ("llb.dev/max-connections", &long),
        ("llb.dev/health-check", &long),
        ("service.beta.kubernetes.io/load-balancer-source-ranges", &long),
        ("service.beta.kubernetes.io/load-balancer-source-ranges", &many),
    ] {
        let services: Vec<String> = (0..SERVICES).map(|number| service(number, annotation, text)).collect();
        let snapshot = snapshot_of(services.join("---\n").as_bytes(), true).unwrap();
        let shown: usize = snapshot.problems.iter().map(|problem| problem.to_string().len()).sum();
        assert!(shown < SERVICES * 20 * 300, "{annotation}: {shown} bytes");
        let pools: usize =
            snapshot.services.values().filter_map(|service| Some(service.pool.as_ref()?.len())).sum();
        assert!(pools <= SERVICES * 80, "{annotation}: {pools} bytes");
        let case = format!(
            "=== flags\n--pool 198.51.100.0/24\n=== link\neth0 192.0.2.10/24\n=== manifests\n{}",
            service(1, annotation, text)
        );
        let told = run(&Case::parse(&case), &mut BTreeSet::new());
        let (_, expected) = told.split_once("=== expected\n").unwrap();
        assert!(expected.len() < 20 * 300, "{annotation}: {expected}");
    }
}

/// An object of the size that the API accepts can name many more ports, endpoints and ranges than anybody uses.
#[test]
fn objects_of_the_largest_size_take_a_bounded_amount() {
    let list =
        |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let ports = list(20_000, &|number| format!("{{name: p{number}, port: {}}}", 1 + number));
    let ranges = list(20_000, &|number| format!("10.{}.{}.0/25", number / 256, number % 256));
    let vips = list(20_000, &|number| format!("10.1.{}.{}", number / 256, number % 256));
    let families = list(1000, &|_| "IPv4".to_owned());
    let service = |name: &str, annotations: &str| {
        format!(
            "---\nkind: Service\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\n\
             spec: {{type: LoadBalancer, ipFamilies: [{families}], loadBalancerSourceRanges: [{ranges}], ports: [{ports}]}}\n"
        )
    };
    let endpoints = list(1000, &|number| format!("{{addresses: [10.0.{}.{}]}}", number / 256, number % 256));
    let slice = format!(
        "---\nkind: EndpointSlice\nmetadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nendpoints: [{endpoints}]\nports: [{}]\n",
        list(100, &|number| format!("{{name: p{number}, port: {}}}", 1 + number))
    );
    let text = service("web", &format!("llb.dev/sharing-key: \"{}\"", "k".repeat(200)))
        + &service("many", &format!("llb.dev/vips: \"{vips}\""))
        + &slice;
    let snapshot = snapshot_of(text.as_bytes(), true).unwrap();
    let service = |name: &str| &snapshot.services[&ServiceName::new("default", name)];
    let web = service("web");
    assert_eq!((web.ports.len(), web.families.len()), (1024, 1));
    assert_eq!(web.terms.source_ranges.ranges().unwrap().len(), 1024);
    assert_eq!(web.sharing_key, None, "a key that is cut could be that of another Service");
    assert!(service("many").requested_vips.is_empty());
    let endpoints: usize = snapshot.endpoints.values().map(|endpoints| endpoints.len()).sum();
    assert_eq!(endpoints, 10_000);
    let told: Vec<String> = snapshot.problems.iter().map(ToString::to_string).collect();
    for limit in
        ["20000 ports", "20000 entries", "is too long", "more VIPs than the 16", "more than 10000 pairs"]
    {
        assert!(told.iter().any(|problem| problem.contains(limit)), "{limit}: {told:#?}");
    }
}

/// The reasons of problems that no case reaches, of those that conversion or the desired state can give.
fn missing(reached: &BTreeSet<ProblemReason>) -> BTreeSet<ProblemReason> {
    use ProblemReason::{
        AddressGone, AddressNotAllowed, AffinityAtNodes, ForeignAnnotation, FrontendCollision, InvalidValue,
        LinkMissing, NamespaceLimit, NoAddressOfFamily, NoBackends, NoEligibleNodes, NoNodePort,
        NoRouteToPods, NoSubnet, NotRoutable, OutsidePools, PoolExhausted, PoolNotAllowed, PortNotAllowed,
        UnhealthyBackends, UnknownName, UnsupportedProtocol, VipNotShared,
    };
    let all = BTreeSet::from([
        AddressGone,
        AddressNotAllowed,
        PortNotAllowed,
        VipNotShared,
        AffinityAtNodes,
        ForeignAnnotation,
        UnknownName,
        FrontendCollision,
        InvalidValue,
        LinkMissing,
        NamespaceLimit,
        NoAddressOfFamily,
        NoBackends,
        NoEligibleNodes,
        NoNodePort,
        NoRouteToPods,
        NoSubnet,
        NotRoutable,
        OutsidePools,
        PoolExhausted,
        PoolNotAllowed,
        UnhealthyBackends,
        UnsupportedProtocol,
    ]);
    all.difference(reached).copied().collect()
}

/// The text of the case, with the present results in its sections `expected` and `maps`.
fn run(case: &Case, reasons: &mut BTreeSet<ProblemReason>) -> String {
    let mut configured = policy(&case.flags);
    if case.snapshots.iter().any(|snapshot| snapshot.config_map.is_some()) {
        configured.config_map = Some(CONFIG_MAP.to_owned());
    }
    let mut pools = None;
    let mut links = links(&case.links);
    let (mut host, unrouted) = host(&case.host);
    let (verdicts, holding) = (verdicts(&case.health), holding(&case.host));
    let mut observed = Observed::default();
    let mut told = case.head.clone();
    for Snapshot { config_map, manifests, shows_maps, shows_pools } in &case.snapshots {
        let mistakes = config_map.as_ref().and_then(|text| follow_pools(text, &mut pools));
        if let Some(text) = config_map {
            write!(told, "=== config-map\n{text}").unwrap();
        }
        write!(told, "=== manifests\n{manifests}=== expected\n").unwrap();
        mistakes.iter().for_each(|mistakes| writeln!(told, "mistake {mistakes}").unwrap());
        if configured.config_map.is_some() && pools.is_none() {
            told.push_str("no snapshot\n");
            continue;
        }
        let (policy, pool_problem) = with_cluster_pools(&configured, pools.as_ref());
        let mut snapshot = snapshot_of(manifests.as_bytes(), policy.foreign_annotations).unwrap();
        snapshot.service_ranges = service_ranges(&case.host);
        for (name, service) in &snapshot.services {
            if !service.status.is_empty() {
                observed.statuses.entry(name.clone()).or_insert_with(|| service.status.clone());
            }
        }
        observed.statuses.retain(|name, _| snapshot.services.contains_key(name));
        let held: Held = observed.statuses.clone();
        let resting = BTreeMap::new();
        host.unrouted_pods = pods_that_need_routes(&snapshot, &policy);
        host.unrouted_pods.retain(|pod| unrouted.contains(pod));
        let facts = Facts { links: links.clone(), host: host.clone(), ..Facts::default() };
        let inputs = Inputs {
            snapshot: &snapshot,
            facts: &facts,
            policy: &policy,
            held: &held,
            resting: &resting,
            verdicts: &verdicts,
            holding: &holding,
        };
        let (desired, mut problems) = compile(inputs);
        problems.extend(pool_problem);
        reasons.extend(problems.iter().map(|problem| problem.reason));
        let rounds = settle(&desired, &mut observed, &mut links);
        told.push_str(&shown(&desired, &rounds, &problems));
        if *shows_maps {
            write!(told, "=== maps\n{}", render(&desired.frontends)).unwrap();
        }
        if *shows_pools {
            told.push_str("=== pools\n");
            desired.pools.iter().for_each(|usage| told.push_str(&usage_of(usage)));
        }
    }
    told
}

fn usage_of(PoolUsage { pool, family, total, used, routed }: &PoolUsage) -> String {
    let routed = if *routed { ", routed" } else { "" };
    format!("{pool} {family}: {used} of {total}{routed}\n")
}

/// Plans and acts, as if every action succeeded, until nothing is left to do. Returns the actions of each round.
fn settle(desired: &State, observed: &mut Observed, links: &mut [Link]) -> Vec<Vec<Action>> {
    observed.free = desired.addresses.keys().map(|key| key.address).collect();
    let mut rounds = Vec::new();
    loop {
        let actions = hold_back(plan(desired, observed), &BTreeSet::new(), desired, observed).now;
        if actions.is_empty() {
            return rounds;
        }
        assert!(rounds.len() < 8, "the plan does not settle: {actions:?}");
        for action in actions.clone() {
            apply(action, observed, links);
        }
        rounds.push(actions);
    }
}

fn apply(action: Action, observed: &mut Observed, links: &mut [Link]) {
    match action {
        Action::ProbeAddress { key } => panic!("it is known that {key} is free"),
        Action::UpsertFrontend { frontend, rule } => {
            observed.frontends.insert(frontend, FrontendStatus::relayed(rule, Phase::Serving));
        }
        Action::RemoveFrontend { frontend } => {
            observed.frontends.remove(&frontend);
        }
        Action::AddAddress { key, prefix_length } => {
            let net = IpNet::new(key.address, prefix_length).unwrap();
            let address = LinkAddress { net, ours: true, primary: false };
            link_of(&key, links).into_iter().for_each(|link| link.addresses.push(address.clone()));
            observed.addresses.insert(key, prefix_length);
        }
        Action::RemoveAddress { key, .. } => {
            let is_other = |known: &LinkAddress| known.net.addr() != key.address;
            link_of(&key, links).into_iter().for_each(|link| link.addresses.retain(is_other));
            observed.addresses.remove(&key);
        }
        Action::WriteStatus { service, status } if status.is_empty() => {
            observed.statuses.remove(&service);
        }
        Action::WriteStatus { service, status } => {
            observed.statuses.insert(service, status);
        }
        // A plan has none: the loop adds them when they are due.
        Action::WriteConditions { .. } => {}
    }
}

/// The link of an address; `None` for the link of routed VIPs, which is made when it is needed.
fn link_of<'a>(key: &AddressKey, links: &'a mut [Link]) -> Option<&'a mut Link> {
    let link = links.iter_mut().find(|link| link.name == key.link);
    assert!(link.is_some() || key.link == VIP_LINK, "{key}");
    link
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
    for (frontend, failing) in &desired.unhealthy {
        for (backend, why) in failing {
            writeln!(text, "unhealthy {backend} of {frontend}: {why}").unwrap();
        }
    }
    for check in &desired.checks {
        writeln!(text, "check {check}").unwrap();
    }
    for (key, prefix_length) in &desired.addresses {
        writeln!(text, "address {}/{prefix_length} on {}", key.address, key.link).unwrap();
    }
    for (key, prefix_length) in &desired.elsewhere {
        writeln!(text, "elsewhere {}/{prefix_length} on {}", key.address, key.link).unwrap();
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
