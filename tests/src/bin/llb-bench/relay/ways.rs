// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench relay -- --ways`: compares the ways in which llb can move the bytes of a connection. One
//! agent runs at a time, with interleaved rounds: each way gets all probes before the next way starts.
//! `load.rs` has the load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Agent, Lab, Manifests};

use super::load::{self, Questions, Servers};

/// Mostly idle connections, as many as the descriptors allow: this program has two for each connection, as
/// client and server, and so has the agent.
const IDLE: u64 = 10_000;
/// Descriptors that are open besides.
const OTHER_DESCRIPTORS: u64 = 1_500;

/// A name, and the agent's flags.
const WAYS: [(&str, &[&str]); 5] = [
    ("copy", &["--userspace", "--splice=false"]),
    ("splice", &["--userspace"]),
    ("sockmap", &["--datapath=sockmap"]),
    ("sockmap after 0 reads", &["--datapath=sockmap", "--sockmap-after-reads=0"]),
    ("sockmap after 8 reads", &["--datapath=sockmap", "--sockmap-after-reads=8"]),
];

/// What is measured.
#[derive(Clone, Copy)]
enum Probe {
    Bulk(usize),
    Questions { size: usize, connections: usize },
    New,
    Idle,
}

const PROBES: [Probe; 10] = [
    Probe::Bulk(1),
    Probe::Bulk(64),
    Probe::Questions { size: 64, connections: 1 },
    Probe::Questions { size: 64, connections: 64 },
    Probe::Questions { size: 64, connections: 1000 },
    Probe::Questions { size: 4096, connections: 1 },
    Probe::Questions { size: 4096, connections: 64 },
    Probe::Questions { size: 4096, connections: 1000 },
    Probe::New,
    Probe::Idle,
];

/// The values of each row, by its place and name, then by way.
type Values = BTreeMap<(usize, String), BTreeMap<usize, Vec<f64>>>;

/// Measures all ways and prints a table.
///
/// # Errors
/// An agent does not start, or a probe fails.
pub(crate) fn run(rounds: u32, seconds: u32, only: Option<&str>) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let idle = limit.maximum.map_or(IDLE, |most| IDLE.min(most.saturating_sub(OTHER_DESCRIPTORS) / 2));
    let lab = Lab::new()?;
    let (host, node) = (lab.balancer(), lab.host("node-1"));
    for host in [lab.client(), host, node] {
        host.output(&["sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=1024 65535"])?;
    }
    let servers = Servers::start(node, 30007, 30009)?;
    let manifests = Manifests::new(host, "manifests")?;
    manifests.write("nodes.yaml", &manifests::nodes(&[node]))?;
    let ports = [PortSpec::tcp("echo", 7, 30007), PortSpec::tcp("sink", 9, 30009)];
    manifests.write("bench.yaml", &manifests::service("bench", &[lab.vip(0)], &ports))?;
    let folder = manifests.path().display().to_string();

    let mut values = Values::new();
    for round in 1..=rounds {
        for (way, (name, arguments)) in WAYS.into_iter().enumerate() {
            eprintln!("round {round} of {rounds}: {name}");
            // All connections are of one namespace.
            let more = ["--manifests", &folder, "--namespace-share", "100"];
            let arguments: Vec<&str> = arguments.iter().copied().chain(more).collect();
            let mut agent = Agent::start(host, &arguments)?;
            let vip = lab.vip(0);
            agent.wait_for_state(crate::probe::LIMIT, "the ports to be served", |state| {
                [7, 9].iter().all(|port| {
                    let frontend = format!("{}/TCP", SocketAddr::new(vip, *port));
                    state["observed"]["frontends"][&frontend]["phase"] == "serving"
                })
            })?;

            let stage = Stage {
                lab: &lab,
                servers: &servers,
                span: Duration::from_secs(seconds.into()),
                idle: usize::try_from(idle)?,
            };
            for (place, probe) in PROBES.into_iter().enumerate() {
                if only.is_some_and(|only| !probe.name().contains(only)) {
                    continue;
                }
                let rows = stage
                    .measure(probe)
                    .with_context(|| format!("{} by {name}\n{}", probe.name(), agent.log()))?;
                for (row, value) in rows {
                    values.entry((place, row)).or_default().entry(way).or_default().push(value);
                }
            }
            agent.terminate()?;
            agent.wait_exit()?;
        }
    }
    print!("{}", table(&values, rounds, seconds));
    Ok(())
}

impl Probe {
    fn name(self) -> String {
        match self {
            Self::Bulk(streams) => format!("bulk, {streams} streams"),
            Self::Questions { size, connections } => {
                format!("{size} bytes there and back, {connections} connections")
            }
            Self::New => "new connections, 64 at once".to_owned(),
            Self::Idle => "mostly idle connections, 2,000 questions a second".to_owned(),
        }
    }
}

struct Stage<'a> {
    lab: &'a Lab,
    servers: &'a Servers,
    span: Duration,
    idle: usize,
}

impl Stage<'_> {
    fn measure(&self, probe: Probe) -> Result<Vec<(String, f64)>> {
        let Self { lab, servers, span, idle } = *self;
        let (echo, sink) = (SocketAddr::new(lab.vip(0), 7), SocketAddr::new(lab.vip(0), 9));
        let name = probe.name();
        Ok(match probe {
            Probe::Bulk(streams) => {
                let before = load::busy_seconds()?;
                let bytes = servers.bulk(lab.client(), sink, streams, span)?;
                let busy = load::busy_seconds()? - before;
                let total = bytes * span.as_secs_f64() * 1.25;
                vec![
                    (format!("{name}, Gbit/s"), bytes * 8.0 / 1e9),
                    (format!("{name}, CPU s of the machine per GB"), busy / (total / 1e9)),
                ]
            }
            Probe::Questions { size, connections } => {
                let load = Questions { size, connections, rate: None };
                let asked = load::ask(lab.client(), echo, load, span)?;
                let cpu = asked.cores * 1e6 / asked.rate;
                let mut rows = vec![
                    (format!("{name}, 1/s"), asked.rate),
                    (format!("{name}, CPU us of the machine for each"), cpu),
                ];
                if connections == 1 {
                    rows.push((format!("{name}, p50 us"), asked.median));
                }
                rows
            }
            Probe::New => {
                let before = load::busy_seconds()?;
                let rate = load::connect_often(lab.client(), echo, 64, span)?;
                let cpu = (load::busy_seconds()? - before) * 1e6 / (rate * span.as_secs_f64());
                vec![(format!("{name}, 1/s"), rate), (format!("{name}, CPU us of the machine for each"), cpu)]
            }
            Probe::Idle => {
                let load = Questions { size: 64, connections: idle, rate: Some(2_000.0) };
                let asked = load::ask(lab.client(), echo, load, span * 2)?;
                vec![
                    (format!("{name}, connections"), idle as f64),
                    (format!("{name}, cores busy"), asked.cores),
                    (format!("{name}, p50 us"), asked.median),
                    (format!("{name}, 1/s"), asked.rate),
                ]
            }
        })
    }
}

fn table(values: &Values, rounds: u32, seconds: u32) -> String {
    let names: Vec<&str> = WAYS.iter().map(|(name, _)| *name).collect();
    let mut text = format!(
        "{rounds} rounds of {seconds} s; median (least to most)\n\n| | {} |\n|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    for ((_, row), ways) in values {
        let cells: Vec<String> = (0..WAYS.len())
            .map(|way| {
                let mut values = ways.get(&way).cloned().unwrap_or_default();
                values.sort_unstable_by(f64::total_cmp);
                match (values.first(), values.get(values.len() / 2), values.last()) {
                    (Some(least), Some(median), Some(most)) => {
                        format!("{} ({} to {})", short(*median), short(*least), short(*most))
                    }
                    _ => "-".to_owned(),
                }
            })
            .collect();
        text.push_str(&format!("| {row} | {} |\n", cells.join(" | ")));
    }
    text
}

/// At least three digits.
fn short(value: f64) -> String {
    match value {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
