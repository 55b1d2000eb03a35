// SPDX-License-Identifier: Apache-2.0
//! The measurements. Each builds what it needs in a lab, measures, and removes it. `report.rs` compares the
//! results with the targets.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use llb_tests::cluster::Cluster;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::wait::wait_until_at;
use llb_tests::{Agent, Lab, Manifests, Server, wait_until};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::report::{Row, Statistic};

type Measure = fn() -> Result<Vec<Row>>;

/// The measurements by name, in the order in which they run.
pub(crate) const ALL: [(&str, Measure); 4] = [
    ("idle-connections", idle_connections),
    ("start-ports", start_with_many_ports),
    ("start-vips", start_with_many_vips),
    ("added-service", added_service),
];

const CONNECTIONS: usize = 10_000;
/// Files of this program, and of the agent, besides two for each connection.
const OTHER_FILES: usize = 1_000;
const FRONTENDS: usize = 2_000;
const PORTS_PER_VIP: usize = 100;
const FIRST_PORT: u16 = 10_000;
/// The first nodePort. Nobody listens there in the measurements of a start.
const FIRST_NODE_PORT: u16 = 30_000;
/// Starts for each row; a start takes a second or two.
const STARTS: usize = 5;
const ADDED: usize = 200;
/// Services added after these, each on a new VIP.
const ADDED_ON_NEW_VIPS: usize = 50;
/// VIPs outside the subnet of the segment, reached by a route.
const ROUTED_V4: &str = "203.0.113.0/24";
const ROUTED_V6: &str = "2001:db8:1::/48";

/// Time limit of one attempt to connect, which does not wait until a lost SYN is repeated. It is also the
/// precision of the measured moment.
const ATTEMPT: Duration = Duration::from_millis(2);
/// Limit of each wait, far above every target.
const LIMIT: Duration = Duration::from_secs(60);

/// All rows measure the relay: its listeners accept without a backend, so that a frontend can be waited for.
const RELAY: &str = "--userspace";

/// USER_HZ is 100 on every Linux (proc_pid_stat(5)).
const MILLIS_PER_TICK: f64 = 10.0;
const ROUNDS: &str = "llb_reconcile_rounds_total ";

const MEBIBYTE: f64 = 1024.0 * 1024.0;

fn idle_connections() -> Result<Vec<Row>> {
    let lab = Lab::new()?;
    let node = lab.host("node-1");
    let vip = lab.vip(0);
    let _server = Server::echo(node, node.at(FIRST_NODE_PORT))?;
    let manifests = Manifests::new(lab.balancer(), "manifests")?;
    manifests.write("nodes.yaml", &manifests::nodes(&[node]))?;
    let port = PortSpec::tcp("idle", FIRST_PORT, FIRST_NODE_PORT);
    manifests.write("idle.yaml", &manifests::service("idle", &[vip], &[port]))?;
    let folder = manifests.path().display().to_string();
    // All connections are of one namespace.
    let mut agent =
        Agent::start(lab.balancer(), &[RELAY, "--manifests", &folder, "--namespace-share", "100"])?;
    let pid = agent.process().pid();
    let address = SocketAddr::new(vip, FIRST_PORT);
    lab.client().run_inside(|| connect_until(address))??;
    wait_for_active(&agent, 0)?;
    let (memory, files) = (resident(pid)?, open_files(pid)?);

    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) as usize;
    let count = CONNECTIONS.min(most.saturating_sub(OTHER_FILES) / 2);
    let clients = lab.client().run_inside(|| -> Result<Vec<TcpStream>> {
        (0..count).map(|_| Ok(TcpStream::connect_timeout(&address, LIMIT)?)).collect()
    })??;
    wait_for_active(&agent, clients.len())?;
    let growth = resident(pid)? - memory;
    let files = open_files(pid)? - files;
    // The figure is exact if all connections could be opened.
    let per_all = CONNECTIONS as f64 / count as f64;
    let row = |name: &str, unit, value: f64, target| Row {
        name: format!("{count} idle connections: {name}"),
        unit,
        values: vec![value],
        target,
    };
    let target = Some((Statistic::Max, 100.0));
    Ok(vec![
        row("memory of the agent, for 10,000", "MiB", (memory + growth * per_all) / MEBIBYTE, target),
        row("memory on top of none, for 10,000", "MiB", growth * per_all / MEBIBYTE, None),
        row("open files on top of none", "files", files, None),
    ])
}

fn start_with_many_ports() -> Result<Vec<Row>> {
    let count = FRONTENDS / PORTS_PER_VIP;
    let names: Vec<String> = (0..PORTS_PER_VIP).map(|port| format!("p{port}")).collect();
    start(&format!("{count} VIPs"), |lab| {
        let vips: Vec<IpAddr> = (0..count).map(|index| lab.vip(index as u8)).collect();
        let service = |(index, vip): (usize, &IpAddr)| {
            let port = |(port, name)| {
                let node_port = FIRST_NODE_PORT + (index * PORTS_PER_VIP + port) as u16;
                PortSpec::tcp(name, FIRST_PORT + port as u16, node_port)
            };
            let ports: Vec<PortSpec<'_>> = names.iter().map(String::as_str).enumerate().map(port).collect();
            manifests::service(&format!("s{index}"), &[*vip], &ports)
        };
        let services = vips.iter().enumerate().map(service).collect();
        let ports = (0..PORTS_PER_VIP as u16).map(|port| FIRST_PORT + port);
        let on_port = |port| vips.iter().map(move |&vip| SocketAddr::new(vip, port));
        Ok((services, ports.flat_map(on_port).collect()))
    })
}

fn start_with_many_vips() -> Result<Vec<Row>> {
    start(&format!("{FRONTENDS} VIPs"), |lab| {
        // Outside the subnet of the segment: reached by a route, as VIPs often are.
        lab.client().ip(&format!("route add {ROUTED_V6} via {}", lab.balancer().ipv6()))?;
        let vip = |number: usize| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 1, number as u16));
        let service = |number: usize| {
            let port = PortSpec::tcp("p", FIRST_PORT, FIRST_NODE_PORT + number as u16);
            manifests::service(&format!("s{number}"), &[vip(number)], &[port])
        };
        let frontends = (0..FRONTENDS).map(|number| SocketAddr::new(vip(number), FIRST_PORT));
        Ok(((0..FRONTENDS).map(service).collect(), frontends.collect()))
    })
}

/// Services as YAML, and all their frontends.
type Load = (Vec<String>, Vec<SocketAddr>);

/// Time from the start of the process until each frontend has accepted a connection, each time on a new lab.
fn start(what: &str, load: impl Fn(&Lab) -> Result<Load>) -> Result<Vec<Row>> {
    let mut values = Vec::new();
    for _ in 0..STARTS {
        let lab = Lab::new()?;
        let (services, frontends) = load(&lab)?;
        ensure!(frontends.len() == FRONTENDS, "{} frontends", frontends.len());
        let manifests = Manifests::new(lab.balancer(), "manifests")?;
        manifests.write("nodes.yaml", &manifests::nodes(&[lab.host("node-1")]))?;
        manifests.write("services.yaml", &services.join("---\n"))?;
        let began = Instant::now();
        let folder = manifests.path().display().to_string();
        // All Services are in one namespace, which may have 1,024 VIPs by default.
        let flags = [RELAY, "--manifests", &folder, "--allow-vips", ROUTED_V6, "--namespace-vips", "2000"];
        let _agent = Agent::spawn(lab.balancer(), &flags)?;
        lab.client().run_inside(|| frontends.iter().try_for_each(|frontend| connect_until(*frontend)))??;
        values.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let name = format!("start until {FRONTENDS} frontends on {what} accept");
    Ok(vec![Row { name, unit: "ms", values, target: Some((Statistic::Max, 2000.0)) }])
}

/// Time from the API's answer to "create" until a connection is accepted, for one Service after the other,
/// beside 2,000 frontends. The first Services use VIPs that llb holds, the others new ones, which llb first
/// probes for another owner.
fn added_service() -> Result<Vec<Row>> {
    let mut lab = Lab::new()?;
    let cluster = Cluster::start(&mut lab)?;
    lab.client().ip(&format!("route add {ROUTED_V4} via {}", lab.balancer().ipv4()))?;
    let kubeconfig = cluster.agent_kubeconfig().display().to_string();
    let first: Vec<IpAddr> = (0..FRONTENDS / PORTS_PER_VIP).map(|index| lab.vip(index as u8)).collect();
    let flags = [RELAY, "--kubeconfig", &kubeconfig, "--drain-timeout", "1s", "--allow-vips", ROUTED_V4];
    let mut agent = Agent::start(lab.balancer(), &flags)?;
    let pid = agent.process().pid();
    let node = lab.host("node-1").ipv4().to_string();
    let admin = cluster.admin_kubeconfig().to_owned();
    let (held, new, cpu, rounds) =
        lab.client().run_inside(|| -> Result<(Vec<f64>, Vec<f64>, f64, f64)> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = client_of(&admin).await?;
                for (index, vip) in first.iter().enumerate() {
                    let ports = FIRST_PORT..FIRST_PORT + PORTS_PER_VIP as u16;
                    create(&client, &format!("many-{index}"), *vip, ports, &node).await?;
                }
                wait_until(LIMIT, "2,000 frontends", || {
                    let text = agent.get("/metrics")?;
                    Ok((metric(&text, "llb_frontends ")? == FRONTENDS as f64).then_some(()))
                })?;
                let (cpu, rounds) = (cpu_time(pid)?, metric(&agent.get("/metrics")?, ROUNDS)?);
                let add = async |name: String, vip: IpAddr, port: u16| -> Result<f64> {
                    create(&client, &name, vip, port..port + 1, &node).await?;
                    let began = Instant::now();
                    connect_until(SocketAddr::new(vip, port))?;
                    Ok(began.elapsed().as_secs_f64() * 1000.0)
                };
                let mut held = Vec::new();
                for (index, &vip) in (0..ADDED).zip(first.iter().cycle()) {
                    let port = FIRST_PORT + (PORTS_PER_VIP + index) as u16;
                    held.push(add(format!("held-{index}"), vip, port).await?);
                }
                let cpu = (cpu_time(pid)? - cpu) / ADDED as f64;
                let rounds = (metric(&agent.get("/metrics")?, ROUNDS)? - rounds) / ADDED as f64;
                let mut new = Vec::new();
                for index in 0..ADDED_ON_NEW_VIPS {
                    let vip = IpAddr::from([203, 0, 113, 1 + index as u8]);
                    new.push(add(format!("new-{index}"), vip, FIRST_PORT).await?);
                }
                Ok((held, new, cpu, rounds))
            })
        })??;
    let row = |name: &str, unit, values, target| Row {
        name: format!("Service added beside {FRONTENDS} frontends: {name}"),
        unit,
        values,
        target,
    };
    Ok(vec![
        row("until it takes a connection, on a VIP that llb holds", "ms", held, Some((Statistic::P99, 50.0))),
        row("the same on a new VIP, about 210 ms of it probing", "ms", new, None),
        row("CPU time of the agent, each", "ms", vec![cpu], None),
        row("rounds of the agent, each", "rounds", vec![rounds], None),
    ])
}

async fn client_of(kubeconfig: &Path) -> Result<kube::Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Creates the endpoints of a Service, then the Service, so that only the event of the Service itself is waited
/// for. (It has no selector, so no controller adds its time.)
async fn create(client: &kube::Client, name: &str, vip: IpAddr, ports: Range<u16>, node: &str) -> Result<()> {
    let port = |port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"});
    let ports: Vec<Value> = ports.map(port).collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [node], "nodeName": "node-1", "conditions": {"ready": true}}],
        "ports": ports,
    }))?;
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": name, "annotations": {"llb.dev/vips": vip.to_string(), "llb.dev/sharing-key": "bench"}},
        "spec": {"type": "LoadBalancer", "ports": ports},
    }))?;
    let parameters = PostParams::default();
    Api::<EndpointSlice>::namespaced(client.clone(), "default").create(&parameters, &slice).await?;
    Api::<Service>::namespaced(client.clone(), "default").create(&parameters, &service).await?;
    Ok(())
}

/// Tries until a connection is accepted.
fn connect_until(address: SocketAddr) -> Result<()> {
    wait_until_at(ATTEMPT, LIMIT, &format!("a connection to {address}"), || {
        TcpStream::connect_timeout(&address, ATTEMPT)?;
        Ok(Some(()))
    })
}

fn wait_for_active(agent: &Agent, connections: usize) -> Result<()> {
    wait_until(LIMIT, &format!("{connections} connections"), || {
        let active = metric(&agent.get("/metrics")?, "llb_relay_connections_active ")?;
        if active == connections as f64 { Ok(Some(())) } else { anyhow::bail!("{active}") }
    })
}

fn metric(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("no metric {name}"))?.trim().parse()?)
}

/// CPU time in milliseconds, in user space and in the kernel.
fn cpu_time(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name before the fields may contain anything. These are the fields 14 and 15, counted from
    // 1.
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    Ok(ticks as f64 * MILLIS_PER_TICK)
}

/// Resident memory in bytes.
fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024.0)
}

fn open_files(pid: u32) -> Result<f64> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64)
}
