// SPDX-License-Identifier: Apache-2.0
//! A hostile tenant: random Services of one namespace next to those of a victim, as the desired state sees them.
//! What tests/lab checks with packets is checked here with many more seeds and other flags, without an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use llb_agent::config::Policy;
use llb_agent::desired::{Held, Inputs, compile};
use llb_agent::model::{
    Facts, Frontend, Holding, Host, Link, LinkAddress, MESSAGE_BYTES, Problem, PublishedStatus, ReservedFor,
    Rule, ServiceName, Snapshot, State, Verdicts, bound,
};
use llb_agent::source::snapshot_of;
use llb_tests::Tenant;

/// Number of runs for each set of flags. Each has its own seed, which a failed check names.
const SEEDS: u64 = 8;
/// Services of the tenant; all of them change in each wave.
const SERVICES: usize = 50;
const WAVES: usize = 3;

const VICTIM: &str = "victim";
const TENANT: &str = "tenant";

const OWN: &str = "192.0.2.20";
const GATEWAY: &str = "192.0.2.1";
const API_SERVER: &str = "192.0.2.2";
const RESOLVER: &str = "192.0.2.3";
const OTHER_LINK: &str = "192.0.2.4";
const NODE: &str = "192.0.2.31";
/// The victim asks for it where there is no pool.
const VICTIM_VIP: &str = "192.0.2.50";
/// What nobody may have, and the tenant asks for.
const FORBIDDEN: [&str; 9] = [
    GATEWAY,
    API_SERVER,
    RESOLVER,
    OTHER_LINK,
    NODE,
    "192.0.2.0",
    "192.0.2.255",
    "2001:db8:ffff::1",
    "198.51.100.9",
];
/// What the tenant may have: without a pool because it is in the subnet, or because it is in the tenant's pool.
const FREE: [&str; 6] =
    ["192.0.2.110", "192.0.2.111", "192.0.2.112", "2001:db8::110", "2001:db8::111", "2001:db8::112"];

/// Flags, the VIP that the victim asks for, and what the tenant may have besides [`FREE`].
struct World {
    policy: Policy,
    victim_asks: Option<&'static str>,
    tenant_may: &'static [&'static str],
}

fn worlds() -> [World; 3] {
    let pool = |text: &str| text.parse().unwrap();
    let small = Policy { namespace_vips: 4, namespace_frontends: 30, ..Policy::default() };
    let free = "192.0.2.110-192.0.2.112,2001:db8::110-2001:db8::112";
    [
        World {
            policy: Policy::default(),
            victim_asks: Some(VICTIM_VIP),
            // The machine's own address is for everybody then.
            tenant_may: &[OWN, "2001:db8::20"],
        },
        World {
            policy: Policy {
                pools: vec![
                    pool("victims=192.0.2.50-192.0.2.53+namespaces=victim"),
                    pool(&format!("tenants={free}+namespaces=tenant")),
                ],
                ..small.clone()
            },
            victim_asks: None,
            tenant_may: &[],
        },
        World {
            policy: Policy {
                pools: vec![pool(&format!("victims=192.0.2.50,{free}"))],
                allow_vips: vec!["192.0.2.120".parse().unwrap()],
                ..small
            },
            victim_asks: None,
            tenant_may: &["192.0.2.120"],
        },
    ]
}

#[test]
fn a_hostile_tenant_takes_nothing_from_others() {
    for (number, world) in worlds().iter().enumerate() {
        for seed in 0..SEEDS {
            let run = Run { world, what: format!("flags {number}, seed {seed}") };
            run.next_to_a_victim(&mut tenant(seed));
        }
    }
}

/// With a pool of its own the victim is served, whatever was there before it.
#[test]
fn a_victim_that_comes_after_a_hostile_tenant_is_served() {
    let [_, world, _] = &worlds();
    for seed in 0..SEEDS {
        let run = Run { world, what: format!("seed {seed}") };
        let held = held_of(&run.compile(&tenant(seed).manifest(0..SERVICES), &Held::new()).0);
        let (state, _) = run.compile(&(tenant(seed).manifest(0..SERVICES) + &victim(world)), &held);
        assert_eq!(frontends_of(&state, VICTIM).len(), 2, "seed {seed}");
    }
}

/// VIPs that rest count for the namespace that had them, so that it can't let a pool for all rest as a whole.
#[test]
fn a_tenant_that_releases_vips_all_the_time_uses_up_no_pool() {
    let pool = "192.0.2.50,192.0.2.110-192.0.2.113".parse().unwrap();
    let policy = Policy { pools: vec![pool], namespace_vips: 4, ..Policy::default() };
    let world = World { policy, victim_asks: None, tenant_may: &[] };
    let run = Run { world: &world, what: "resting".to_owned() };
    let service = "---\nkind: Service\nmetadata: {name: fifth, namespace: tenant}\n\
        spec: {type: LoadBalancer, ports: [{port: 80, nodePort: 30080}]}\n";
    let former = |last: u8| (IpAddr::from([192, 0, 2, last]), ServiceName::new(TENANT, format!("s{last}")));
    let resting: BTreeMap<IpAddr, ServiceName> = (110..114).map(former).collect();
    let (state, _) = run.compile_snapshot(&snapshot(service), &Held::new(), &resting);
    assert_eq!(frontends_of(&state, TENANT), BTreeMap::new());
    let (state, _) = run.compile_snapshot(&snapshot(&(victim(&world) + service)), &Held::new(), &resting);
    assert_eq!(frontends_of(&state, VICTIM).len(), 2);
}

struct Run<'a> {
    world: &'a World,
    what: String,
}

impl Run<'_> {
    fn next_to_a_victim(&self, tenant: &mut Tenant) {
        let victim = victim(self.world);
        let (alone, _) = self.compile(&victim, &Held::new());
        let expected = frontends_of(&alone, VICTIM);
        assert_eq!(expected.len(), 2, "{}: the victim is served alone", self.what);
        let mut held = held_of(&alone);
        for _ in 0..WAVES {
            let manifest = tenant.manifest(0..SERVICES) + &victim;
            let snapshot = snapshot(&manifest);
            let (state, problems) = self.compile_snapshot(&snapshot, &held, &BTreeMap::new());
            assert_eq!(frontends_of(&state, VICTIM), expected, "{}: the victim's frontends", self.what);
            for (name, status) in alone.statuses.iter().filter(|(name, _)| *name.namespace == *VICTIM) {
                assert_eq!(state.statuses.get(name), Some(status), "{}: the victim's status", self.what);
            }
            self.check_grants(&state, &alone);
            self.check_problems(problems);
            held = held_of(&state);
            // What was given is kept. What was released may be given now.
            let (again, _) = self.compile_snapshot(&snapshot, &held, &BTreeMap::new());
            for (frontend, rule) in &state.frontends {
                assert_eq!(again.frontends.get(frontend), Some(rule), "{}: {frontend} is lost", self.what);
            }
        }
    }

    /// The tenant has only what it may have, and not too much of it.
    fn check_grants(&self, state: &State, alone: &State) {
        let what = &self.what;
        let may: BTreeSet<IpAddr> =
            FREE.iter().chain(self.world.tenant_may).map(|text| address(text)).collect();
        let is_own = |vip: IpAddr| [address(OWN), address("2001:db8::20")].contains(&vip);
        let is_in_subnet = |vip: IpAddr| match vip {
            IpAddr::V4(vip) => vip.octets().starts_with(&[192, 0, 2]),
            IpAddr::V6(vip) => vip.segments().starts_with(&[0x2001, 0xdb8, 0, 0]),
        };
        let forbidden: BTreeSet<IpAddr> = FORBIDDEN.iter().map(|text| address(text)).collect();
        let of_victim: BTreeSet<IpAddr> = alone.addresses.keys().map(|key| key.address).collect();
        let has_pools = !self.world.policy.pools.is_empty();
        let check = |vip: IpAddr| {
            assert!(!forbidden.contains(&vip), "{what}: {vip} is needed by others");
            assert!(
                if has_pools { may.contains(&vip) } else { is_in_subnet(vip) },
                "{what}: {vip} is not open"
            );
        };
        let mine = frontends_of(state, TENANT);
        for (frontend, rule) in &mine {
            let Frontend { vip, port, .. } = *frontend;
            check(vip);
            assert!(!of_victim.contains(&vip), "{what}: {frontend} is on the victim's VIP");
            let port = port.get();
            let is_reserved =
                [22, 2379, 2380, 6443, 10_250].contains(&port) || (32_768..=60_999).contains(&port);
            assert!(!(is_own(vip) && is_reserved), "{what}: {frontend} is the machine's port");
            for backend in rule.backends.keys() {
                let leads_back = state.frontends.keys().any(|other| {
                    other.socket_address() == backend.address && other.protocol == frontend.protocol
                });
                assert!(!leads_back, "{what}: {frontend} leads to llb itself");
            }
        }
        for key in state.addresses.keys().filter(|key| !of_victim.contains(&key.address)) {
            check(key.address);
            assert!(!is_own(key.address), "{what}: {key} is the machine's");
        }
        let vips: BTreeSet<IpAddr> =
            mine.keys().map(|frontend| frontend.vip).filter(|vip| !is_own(*vip)).collect();
        let policy = &self.world.policy;
        assert!(vips.len() <= policy.namespace_vips, "{what}: {} VIPs", vips.len());
        assert!(mine.len() <= policy.namespace_frontends, "{what}: {} frontends", mine.len());
    }

    fn check_problems(&self, mut problems: Vec<Problem>) {
        bound(&mut problems);
        assert!(problems.iter().all(|problem| problem.message.len() <= MESSAGE_BYTES), "{}", self.what);
        let of_victim = problems.iter().filter(|problem| problem.subject.to_string().contains(VICTIM));
        assert_eq!(of_victim.count(), 0, "{}: {problems:?}", self.what);
    }

    fn compile(&self, manifest: &str, held: &Held) -> (State, Vec<Problem>) {
        self.compile_snapshot(&snapshot(manifest), held, &BTreeMap::new())
    }

    fn compile_snapshot(
        &self,
        snapshot: &Snapshot,
        held: &Held,
        resting: &BTreeMap<IpAddr, ServiceName>,
    ) -> (State, Vec<Problem>) {
        let policy = &self.world.policy;
        let verdicts = Verdicts::new();
        compile(Inputs {
            snapshot,
            facts: &facts(),
            policy,
            held,
            resting,
            verdicts: &verdicts,
            holding: &Holding::All,
        })
    }
}

/// The objects of a manifest, and a Node.
fn snapshot(manifest: &str) -> Snapshot {
    let nodes = format!(
        "---\n{{kind: Node, metadata: {{name: node-1}}, status: {{addresses: [{{type: InternalIP, address: {NODE}}}]}}}}\n"
    );
    snapshot_of((nodes + manifest).as_bytes(), true).unwrap()
}

fn tenant(seed: u64) -> Tenant {
    let all = FORBIDDEN.iter().chain(&FREE).chain(&[OWN, VICTIM_VIP, "192.0.2.51", "192.0.2.120"]);
    Tenant::new(seed, TENANT, all.map(|text| address(text)).collect())
}

/// Two ports: one to nodes, one to endpoints.
fn victim(world: &World) -> String {
    let asks = world.victim_asks.map(|vip| format!("llb.dev/vips: {vip}, ")).unwrap_or_default();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {VICTIM}, annotations: {{{asks}llb.dev/sharing-key: k}}}}\n\
         spec: {{type: LoadBalancer, ports: [{{name: http, port: 80, nodePort: 30080}}, {{name: dns, port: 53, protocol: UDP}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: {VICTIM}, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: dns, protocol: UDP, port: 53}}, {{name: http, port: 80}}]\nendpoints: [{{addresses: [198.51.100.1]}}]\n"
    )
}

fn facts() -> Facts {
    let own = [format!("{OWN}/24"), "2001:db8::20/64".to_owned()];
    let on_link = |net: String| LinkAddress { net: net.parse().unwrap(), ours: false, primary: true };
    let reserved = [
        (GATEWAY, ReservedFor::Gateway),
        (API_SERVER, ReservedFor::ApiServer),
        (RESOLVER, ReservedFor::Resolver),
        (OTHER_LINK, ReservedFor::Link("eth1".to_owned())),
    ];
    let reserved = reserved.into_iter().map(|(text, what)| (address(text), what)).collect();
    Facts {
        links: vec![Link { name: "eth0".to_owned(), addresses: own.map(on_link).to_vec() }],
        host: Host { reserved, ephemeral_ports: Some(32_768..=60_999), ..Host::default() },
        ..Facts::default()
    }
}

fn frontends_of(state: &State, namespace: &str) -> BTreeMap<Frontend, Arc<Rule>> {
    let all = state.frontends.iter().filter(|(_, rule)| *rule.service.namespace == *namespace);
    all.map(|(frontend, rule)| (*frontend, Arc::clone(rule))).collect()
}

/// What Services have in the next round.
fn held_of(state: &State) -> Held {
    let given = state.statuses.iter().filter(|(_, status)| !PublishedStatus::addresses(status).is_empty());
    given.map(|(name, status)| (name.clone(), status.clone())).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
