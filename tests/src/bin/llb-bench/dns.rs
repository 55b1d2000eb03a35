// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench dns`: one question and one answer over UDP, from a new client address and port each time.
//! Some answers are late. It counts answers that reach another client, and questions without an answer.
//!
//! Each contender gets a lab of its own: clients, four nodes that answer, and the balancer between them. Besides
//! llb there are nginx stream and nftables, and no balancer at all, which shows what the lab itself loses.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use serde_json::json;

use llb_tests::flood::SOURCES;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::questions::{Late, Outcome};
use llb_tests::wait::wait_for;
use llb_tests::{Agent, Answers, Host, Lab, Manifests, Process, Questions, object, wait_until};

use crate::figures::machine;
use crate::probe::LIMIT;
use crate::programs::{forward, start_nginx_questions};
use crate::span::write_results;

const NODES: [&str; 4] = ["node-1", "node-2", "node-3", "node-4"];
const DNS: PortSpec<'static> = PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: 30053 };
/// As of a resolver that must ask others for one name in ten.
const LATE: Late = Late { one_in: 10, most: Duration::from_secs(1) };
/// For answers that are still on their way at the end.
const REST: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Questions per second
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    per_second: u32,
    /// How long is asked
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Only these, by their names in the table; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Where the JSON file is written
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    Nothing,
    Xdp,
    Tc,
    Nginx,
    Nftables,
}

impl Through {
    const ALL: [Self; 5] = [Self::Nothing, Self::Xdp, Self::Tc, Self::Nginx, Self::Nftables];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no balancer",
            Self::Xdp => "llb xdp nat",
            Self::Tc => "llb tc nat",
            Self::Nginx => "nginx stream",
            Self::Nftables => "nftables dnat",
        }
    }
}

/// What was counted through one contender.
struct Counted {
    through: Through,
    outcome: Outcome,
    /// Questions that llb dropped because no source port was left.
    refused: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { per_second, seconds, only, out } = arguments;
    let counted: Vec<Counted> = Through::ALL
        .into_iter()
        .filter(|through| only.is_empty() || only.iter().any(|name| name == through.name()))
        .map(|through| {
            eprintln!("{}: {seconds} s", through.name());
            measure(through, *per_second, Duration::from_secs(*seconds)).with_context(|| through.name())
        })
        .collect::<Result<_>>()?;
    println!("{}; {per_second} questions a second for {seconds} s.\n\n{}", machine(), text(&counted));
    let rows = counted.iter().map(|Counted { through, outcome, refused }| {
        let Outcome { asked, answered, wrong } = outcome;
        json!({ "through": through.name(), "asked": asked, "answered": answered, "wrong": wrong, "refused": refused })
    });
    let whole = json!({
        "machine": machine(),
        "questions_per_second": per_second,
        "seconds": seconds,
        "rows": Vec::from_iter(rows),
    });
    write_results(out, &[("dns.json", format!("{whole:#}\n"))])
}

fn measure(through: Through, per_second: u32, span: Duration) -> Result<Counted> {
    let stage = Stage::build(through)?;
    let questions = Questions::start(stage.lab.host("clients"), stage.server, per_second)?;
    std::thread::sleep(span);
    questions.pause();
    let is_complete = || questions.outcome().answered >= questions.outcome().asked;
    // What is not answered by then counts as lost.
    let _ = wait_for(REST, "the last answers", is_complete);
    let refused = "llb_packet_reasons_total{reason=\"ports_exhausted\"}";
    let refused = stage.agent.as_ref().map(|agent| agent.metric(refused)).transpose()?;
    Ok(Counted { through, outcome: questions.stop()?, refused })
}

/// Fields are dropped in this order: the lab goes last.
struct Stage {
    agent: Option<Agent>,
    nginx: Option<Process>,
    _manifests: Option<Manifests>,
    _pass_program: Option<Ebpf>,
    _answers: Vec<Answers>,
    /// Where clients send their questions.
    server: SocketAddrV4,
    lab: Lab,
}

impl Stage {
    fn build(through: Through) -> Result<Self> {
        let mut lab = Lab::empty()?;
        let clients = lab.add_host("clients")?;
        Questions::prepare(&clients)?;
        let nodes = NODES.iter().map(|name| lab.add_host(name)).collect::<Result<Vec<_>>>()?;
        let answers = nodes.iter().map(|node| Answers::start(node, node.at(DNS.node_port), LATE));
        let answers = answers.collect::<Result<Vec<_>>>()?;
        let host = lab.add_host("balancer")?;
        lab.without_offload()?;
        let IpAddr::V4(vip) = lab.vip(0) else { bail!("the first VIP is not IPv4") };
        let server = SocketAddrV4::new(vip, DNS.port);
        let mut stage = Self {
            agent: None,
            nginx: None,
            _manifests: None,
            _pass_program: None,
            _answers: answers,
            server,
            lab,
        };
        let back = |host: &Host, via: Ipv4Addr| host.ip(&format!("route add {SOURCES}/15 via {via}"));
        match through {
            Through::Nothing => {
                back(&nodes[0], clients.ipv4())?;
                stage.server = SocketAddrV4::new(nodes[0].ipv4(), DNS.node_port);
            }
            Through::Xdp | Through::Tc => stage.start_llb(&host, &nodes, through == Through::Xdp)?,
            Through::Nginx => {
                host.ip(&format!("addr add {vip}/24 dev {}", Host::LINK))?;
                back(&host, clients.ipv4())?;
                stage.nginx = Some(start_nginx_questions(&host, server, &nodes, DNS.node_port)?);
            }
            Through::Nftables => {
                forward(&host)?;
                host.ip(&format!("addr add {vip}/24 dev {}", Host::LINK))?;
                back(&host, clients.ipv4())?;
                nodes.iter().try_for_each(|node| back(node, host.ipv4()))?;
                translate(&host, vip, &nodes)?;
            }
        }
        stage.wait_until_answers(&clients)?;
        Ok(stage)
    }

    fn start_llb(&mut self, host: &Host, nodes: &[Host], is_xdp: bool) -> Result<()> {
        if is_xdp {
            // Packets that XDP sends back arrive only if the other end of the veth pair has an XDP program too.
            self._pass_program = Some(self.lab.inside_segment(|| object::pass_at(host.name()))??);
        }
        let manifests = Manifests::new(host, "manifests")?;
        manifests.write("nodes.yaml", &manifests::nodes(&nodes.iter().collect::<Vec<_>>()))?;
        manifests.write("dns.yaml", &manifests::service("dns", &[self.lab.vip(0)], &[DNS]))?;
        let folder = manifests.path().display().to_string();
        let datapath = if is_xdp { "xdp" } else { "tc" };
        self.agent = Some(Agent::start(host, &["--datapath", datapath, "--manifests", &folder])?);
        self._manifests = Some(manifests);
        Ok(())
    }

    fn wait_until_answers(&self, clients: &Host) -> Result<()> {
        // From one of the addresses that nodes reach only by way of the balancer.
        let socket = clients.run_inside(|| UdpSocket::bind((SOURCES, 0)))??;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect(SocketAddr::V4(self.server))?;
        wait_until(LIMIT, "an answer", || {
            socket.send(b"anybody?")?;
            Ok(Some(socket.recv(&mut [0; 64])?))
        })
        .map(drop)
        .with_context(|| {
            let log = self.agent.as_ref().map(Agent::log);
            log.or_else(|| self.nginx.as_ref().map(Process::log_tail)).unwrap_or_default()
        })
    }
}

/// Clients' addresses stay as they are: nodes answer by way of this host.
fn translate(host: &Host, vip: Ipv4Addr, nodes: &[Host]) -> Result<()> {
    let targets = nodes.iter().enumerate().map(|(n, node)| format!("{n} : {}", node.ipv4()));
    let targets = targets.collect::<Vec<_>>().join(", ");
    let file = host.directory().join("nat.nft");
    let rules = format!(
        "table ip nat {{\nchain in {{ type nat hook prerouting priority dstnat;\n\
         ip daddr {vip} udp dport {} dnat to numgen random mod {} map {{ {targets} }} : {}\n}}\n}}\n",
        DNS.port,
        nodes.len(),
        DNS.node_port
    );
    fs::write(&file, rules)?;
    host.output(&["nft", "-f", &file.display().to_string()]).map(drop)
}

/// The results as Markdown.
fn text(counted: &[Counted]) -> String {
    let mut text = String::from(
        "| through | questions | right answers | wrong answers | without an answer | refused for want of a port |\n\
         |---|---|---|---|---|---|\n",
    );
    for Counted { through, outcome: Outcome { asked, answered, wrong }, refused } in counted {
        let refused = refused.map_or_else(|| "-".to_owned(), |refused| refused.to_string());
        let name = through.name();
        text.push_str(&format!(
            "| {name} | {asked} | {answered} | {wrong} | {} | {refused} |\n",
            asked - answered
        ));
    }
    text
}
