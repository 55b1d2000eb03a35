// SPDX-License-Identifier: Apache-2.0
//! A hostile tenant: thousands of random Services of one namespace, written, edited and deleted in waves, next to
//! a victim with traffic and the programs of the machine. The bounds here are those of docs/security.md.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use llb_tests::client::{connect, echo_on, http_get, ping, udp_ask};
use llb_tests::manifests::PortSpec;
use llb_tests::wait::wait_for;
use llb_tests::{Host, Process, Server, Tenant, environment, wait_until};

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// Services of the tenant, without `LLB_SERVICES`: as many as a large cluster has, and fewer where the test is
/// about packets, because reading them takes most of the time.
const MANY: usize = 10_000;
const FEWER: usize = 2_000;
/// Files with Services. Each is written, one is replaced by others, and one is removed, each as a wave of its own.
const FILES: usize = 4;

/// VIPs of the lab that the tenant asks for; the first one is the victim's. Without a pool the others are for
/// whoever comes first, so the victim's later Services ask for those behind them.
const WANTED_VIPS: u8 = 4;

/// Resident memory of the agent at its largest, also in a build for tests, which takes more.
const LARGEST_MEMORY: u64 = 384 << 20;
/// Everything that the agent logs.
const LONGEST_LOG: usize = 512 << 10;
/// Answers of the admin endpoint.
const LARGEST_READYZ: usize = 128 << 10;
const LARGEST_METRICS: usize = 16 << 20;

/// From a written file to served frontends next to those of the tenant.
const WAVE_LIMIT: Duration = Duration::from_secs(60);
/// For checks that run until they are stopped.
const FOREVER: Duration = Duration::from_secs(3600);

const NODE_PORTS: [u16; 3] = [30080, 30007, 30053];
const VICTIM: [PortSpec<'static>; 3] = [
    PortSpec { name: "http", port: 80, protocol: "TCP", node_port: NODE_PORTS[0] },
    PortSpec { name: "echo", port: 7, protocol: "TCP", node_port: NODE_PORTS[1] },
    PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: NODE_PORTS[2] },
];

/// The operator has given each namespace a pool.
pub(crate) fn a_hostile_tenant_with_a_pool_takes_nothing_from_others(plane: Plane) {
    attack(
        plane,
        MANY,
        &[
            "--pool",
            "victims=192.0.2.100-192.0.2.109,2001:db8::100-2001:db8::109+namespaces=default",
            "--pool",
            "tenants=192.0.2.110-192.0.2.199,2001:db8::1:0/112+namespaces=tenant",
        ],
        |vip| is_for_tenant(vip) || is_victims(vip),
    );
}

/// There is no pool, so Services may ask for any free address of the subnets, and share the machine's own one.
pub(crate) fn a_hostile_tenant_without_a_pool_takes_nothing_from_others(plane: Plane) {
    attack(plane, FEWER, &[], |vip| match vip {
        // .0 and .255 are not for hosts; the other ones that are not free have owners, which the test knows.
        IpAddr::V4(vip) => vip.octets().starts_with(&[192, 0, 2]) && ![0, 255].contains(&vip.octets()[3]),
        IpAddr::V6(vip) => vip.segments().starts_with(&[0x2001, 0xdb8, 0, 0]),
    });
}

fn is_for_tenant(vip: IpAddr) -> bool {
    match vip {
        IpAddr::V4(vip) => {
            let [rest @ .., last] = vip.octets();
            rest == [192, 0, 2] && (110..200).contains(&last)
        }
        IpAddr::V6(vip) => vip.segments().starts_with(&[0x2001, 0xdb8, 0, 0, 0, 0, 1]),
    }
}

fn is_victims(vip: IpAddr) -> bool {
    let text = vip.to_string();
    let last = text.strip_prefix("192.0.2.").or_else(|| text.strip_prefix("2001:db8::"));
    last.and_then(|last| last.parse().ok()).is_some_and(|last: u8| (100..110).contains(&last))
}

fn attack(plane: Plane, services: usize, flags: &[&str], may_be_a_vip: impl Fn(IpAddr) -> bool) {
    let seed = environment::seed().unwrap_or_else(rand::random);
    println!("LLB_SEED={seed} repeats this run");
    let count = environment::services().map_or(services, |count| count as usize);
    let mut scene = Scene::new(plane, flags);
    let own = scene.addresses();
    let watch = scene.watch_addresses();
    let patrols = scene.patrols();

    let mut tenant = Tenant::new(seed, "tenant", scene.wanted());
    let of_file = |file: usize| file * count / FILES..(file + 1) * count / FILES;
    let name = |file: usize| format!("tenant-{file}.yaml");
    for file in 0..FILES {
        scene.setup.manifests.write(&name(file), &tenant.manifest(of_file(file))).unwrap();
        scene.serve_another(file);
    }
    scene.setup.manifests.write(&name(0), &tenant.manifest(of_file(0))).unwrap();
    scene.serve_another(FILES);
    scene.setup.manifests.remove(&name(1)).unwrap();
    scene.serve_another(FILES + 1);

    for patrol in &patrols {
        patrol.wait_for_more(20);
    }
    scene.check_bounds();
    for patrol in patrols {
        patrol.end();
    }
    scene.end(&own);
    let foreign: Vec<IpAddr> = watch.seen().into_iter().filter(|vip| !may_be_a_vip(*vip)).collect();
    assert_eq!(foreign, Vec::<IpAddr>::new(), "these were on the link");
    let taken: Vec<IpAddr> = watch.seen().into_iter().filter(|vip| scene.taken.contains(vip)).collect();
    assert_eq!(taken, Vec::<IpAddr>::new(), "these belong to other hosts");
}

/// A victim with servers behind it, and what the machine needs: its API server, gateway, resolver, and SSH.
struct Scene {
    setup: Setup,
    _servers: Vec<Server>,
    api: SocketAddr,
    gateway: Host,
    resolver: SocketAddr,
    /// The addresses of the other hosts.
    taken: Vec<IpAddr>,
}

impl Scene {
    fn new(plane: Plane, flags: &[&str]) -> Self {
        let mut setup = Setup::with_arguments(plane, flags);
        let [api, gateway, resolver] =
            ["api", "gateway", "resolver"].map(|name| setup.lab.add_host(name).unwrap());
        let balancer = setup.lab.balancer().clone();
        balancer.ip(&format!("route add default via {}\n", gateway.ipv4())).unwrap();
        let servers = vec![
            Server::http(&api, api.at(6443), "api").unwrap(),
            Server::udp(&resolver, resolver.at(53), "resolver").unwrap(),
            Server::http(&balancer, balancer.at(22), "ssh").unwrap(),
        ];
        setup.serve_http(NODE_PORTS[0]);
        setup.serve_echo(NODE_PORTS[1]);
        setup.serve_udp(NODE_PORTS[2]);
        setup.serve("web", &[setup.vip(), setup.vip_v6()], &VICTIM);
        let others = setup.lab.hosts().filter(|host| host.name() != balancer.name());
        let taken = others.flat_map(|host| [host.ipv4().into(), host.ipv6().into()]).collect();
        Self { api: api.at(6443), resolver: resolver.at(53), gateway, taken, setup, _servers: servers }
    }

    /// Everybody's addresses, and free ones.
    fn wanted(&self) -> Vec<IpAddr> {
        let lab = &self.setup.lab;
        let hosts = lab.hosts().flat_map(|host| [host.ipv4().into(), host.ipv6().into()]);
        let victims = (0..WANTED_VIPS).flat_map(|index| [lab.vip(index), lab.vip_v6(index)]);
        let free_v4 = (0..60).map(|index| IpAddr::from([192, 0, 2, 110 + index]));
        let free_v6 = (0..1500).map(|index| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 1, index]));
        let ends = [[192, 0, 2, 0], [192, 0, 2, 255]].map(IpAddr::from);
        // As often as the free ones together.
        let needed: Vec<IpAddr> = hosts.chain(victims).chain(ends).collect();
        let times = 1560 / needed.len();
        needed.repeat(times).into_iter().chain(free_v4).chain(free_v6).collect()
    }

    /// The addresses on the link, without those of the victim.
    fn addresses(&self) -> Vec<String> {
        let all = self.setup.lab.balancer().addresses().unwrap();
        let is_victims = |text: &String| is_victims(text.split('/').next().unwrap().parse().unwrap());
        all.into_iter().filter(|text| !is_victims(text)).collect()
    }

    /// Another Service of the victim's namespace is served, and so the agent has read what was written before it.
    fn serve_another(&self, number: usize) {
        let (vip, port) = (self.setup.lab.vip(WANTED_VIPS + number as u8), 8000 + number as u16);
        let name = format!("later-{number}");
        self.setup.write_service(&name, &[vip], &[PortSpec::tcp("http", port, NODE_PORTS[0])]);
        wait_until(WAVE_LIMIT, &format!("{name} to be served"), || {
            http_get(self.setup.client(), SocketAddr::new(vip, port)).map(Some)
        })
        .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", tail(&self.setup.agent.log())));
    }

    fn watch_addresses(&self) -> Watch {
        let balancer = self.setup.lab.balancer();
        let mut command = balancer.command("ip");
        command.args(["-rcvbuf", "8388608", "-oneline", "monitor", "address"]);
        let process = balancer.spawn(command, "addresses").unwrap();
        Watch(process)
    }

    /// Everything that has to go on, each in a thread of its own.
    fn patrols(&self) -> Vec<Patrol> {
        let client = self.setup.client().clone();
        let balancer = self.setup.lab.balancer().clone();
        let vips = [self.setup.vip(), self.setup.vip_v6()];
        let (api, gateway, resolver) = (self.api, self.gateway.ipv4().into(), self.resolver);
        let node = self.setup.lab.host("node-1").at(NODE_PORTS[0]);
        let streams: Vec<TcpStream> =
            vips.map(|vip| connect(&client, SocketAddr::new(vip, 7)).unwrap()).into();
        let datagrams = vips.map(|vip| udp_socket(&client, SocketAddr::new(vip, 53)));
        let (ssh, host) = (balancer.at(22), balancer.clone());
        let requests = client.clone();
        vec![
            Patrol::start("a new connection to the victim", move || {
                vips.iter().try_for_each(|vip| http_get(&requests, SocketAddr::new(*vip, 80)).map(drop))
            }),
            Patrol::start("an open connection to the victim", move || {
                let mut streams = streams.iter().map(TcpStream::try_clone);
                streams.try_for_each(|stream| echo_on(&mut stream?, b"are you there?"))
            }),
            Patrol::start("a datagram to the victim", move || datagrams.iter().try_for_each(ask_once)),
            Patrol::start("the machine's API server, gateway and resolver", move || {
                http_get(&host, api).context("API server")?;
                ping(&host, gateway).context("gateway")?;
                udp_ask(&host, resolver, "where is it?").context("resolver").map(drop)
            }),
            Patrol::start("SSH to the machine, and its own connections", move || {
                http_get(&client, ssh).context("SSH")?;
                http_get(&balancer, node).context("a connection of the machine").map(drop)
            }),
        ]
    }

    fn check_bounds(&mut self) {
        let log = self.setup.agent.log().len();
        let [readyz, metrics] = ["/readyz", "/metrics"].map(|path| self.setup.agent.get(path).unwrap().len());
        let memory = self.setup.largest_resident_bytes();
        println!("memory {} KiB, log {log} B, readyz {readyz} B, metrics {metrics} B", memory >> 10);
        assert!(memory <= LARGEST_MEMORY, "{memory} bytes of memory");
        assert!(log <= LONGEST_LOG, "{log} bytes of log:\n{}", tail(&self.setup.agent.log()));
        assert!(readyz <= LARGEST_READYZ, "{readyz} bytes of /readyz");
        assert!(metrics <= LARGEST_METRICS, "{metrics} bytes of /metrics");
    }

    /// The agent ends in order, and takes all VIPs with it.
    fn end(&mut self, own: &[String]) {
        self.setup.agent.terminate().unwrap();
        let status = self.setup.agent.wait_exit().unwrap();
        assert_eq!(status.code(), Some(0), "{}", tail(&self.setup.agent.log()));
        assert_eq!(self.setup.lab.balancer().addresses().unwrap(), own, "VIPs are left");
    }
}

fn tail(log: &str) -> &str {
    let start = log.len().saturating_sub(8192);
    &log[log.ceil_char_boundary(start)..]
}

/// A UDP socket with its own source port.
fn udp_socket(client: &Host, address: SocketAddr) -> UdpSocket {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 8], 0)),
    };
    let socket = client.run_inside(|| UdpSocket::bind(local)).unwrap().unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// One datagram, which is not sent again, and its answer.
fn ask_once(socket: &UdpSocket) -> Result<()> {
    socket.send(b"hello")?;
    let mut buffer = [0; 1500];
    let count = socket.recv(&mut buffer).context("no answer")?;
    ensure!(buffer[..count].ends_with(b"hello"), "another answer");
    Ok(())
}

// === Patrol ===

/// Does the same again and again, until the test ends it. Every failure counts.
struct Patrol {
    what: &'static str,
    is_over: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Patrol {
    fn start(what: &'static str, mut step: impl FnMut() -> Result<()> + Send + 'static) -> Self {
        let (is_over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ends, counter) = (is_over.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            // It leaves the agent some time of the machine, as clients elsewhere do.
            let ended = wait_for(FOREVER, "the end", || {
                let round = counter.fetch_add(1, Ordering::Relaxed);
                failures.extend(step().err().map(|error| format!("in round {round}: {error:#}")));
                ends.load(Ordering::Relaxed)
            });
            failures.extend(ended.err().map(|error| error.to_string()));
            failures
        });
        Self { what, is_over, rounds, thread }
    }

    fn wait_for_more(&self, rounds: usize) {
        let goal = self.rounds.load(Ordering::Relaxed) + rounds;
        wait_for(WAVE_LIMIT, self.what, || self.rounds.load(Ordering::Relaxed) >= goal).unwrap();
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let failures = self.thread.join().unwrap();
        let rounds = self.rounds.load(Ordering::Relaxed);
        println!("{}: {rounds} times", self.what);
        assert!(failures.is_empty(), "{}: {} of {rounds} failed: {failures:#?}", self.what, failures.len());
    }
}

// === Watch ===

/// Hears of every address that is added to a link of the machine, even for a moment.
struct Watch(Process);

impl Watch {
    fn seen(&self) -> Vec<IpAddr> {
        let log = self.0.log();
        assert!(!log.contains("rror"), "{log}");
        // "2: eth0    inet 192.0.2.20/24 scope global eth0 ..."
        let address = |line: &str| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok();
        log.lines().filter(|line| !line.starts_with("Deleted")).filter_map(address).collect()
    }
}
