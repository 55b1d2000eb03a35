// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench flood`: messages on open connections, while TCP openings from random sources go to the
//! same VIP and port.
//!
//! Everything shares the cores of one machine. So the flood is also sent elsewhere, in turn: to a host that
//! drops it, which shows the cost of sending it; and directly to the node, which adds the cost of the server
//! that answers it. The same is measured with one stream that needs less than the cores could do, as on a
//! balancer that is not fully loaded. After that the flood goes on for a minute without a pause, which must
//! break no connection. Besides llb, all is measured through a router, which shows the cost of one more host on
//! the way, and through nftables.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use llb_tests::flood::{Flood, Pace, SOURCES};
use llb_tests::steady::connect_all;
use llb_tests::{Host, Steady};

use crate::e2e::contender::Contender;
use crate::e2e::stage::Stage;
use crate::figures::{Figures, Row, Summary, compact, machine};
use crate::probe::iperf;
use crate::programs::ECHO;
use crate::span::{Span, write_results};

const SECONDS: u32 = 3;
const WHOLE: Duration = Duration::from_secs(60);

/// Connections, each with one message on its way.
const CONNECTIONS: usize = 32;

/// 30,000 packets in a second, minus the time that sending takes.
const PACE: Pace = Pace { burst: 30, rest: Duration::from_millis(1) };

/// Routing shows the cost of one more host on the way.
const THROUGH: [Contender; 7] = [
    Contender::Routing,
    Contender::RoutingOnXdp,
    Contender::Nftables,
    Contender::XdpNat,
    Contender::XdpDsr,
    Contender::TcNat,
    Contender::TcDsr,
];

/// About a quarter of what one stream can reach here.
const OFFERED: &str = "500M";

const MESSAGES: Row = Row::more("messages on open connections", "1/s");
const STREAM: Row = Row::more("one stream of 500 Mbit/s", "Gbit/s");
/// The sender shares the cores, so it sends less if packets cost more.
const SENT_BESIDE_MESSAGES: Row = Row::more("openings beside messages", "1/s");
const SENT_BESIDE_STREAM: Row = Row::more("openings beside the stream", "1/s");

/// The target of the flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Aim {
    Nowhere,
    Void,
    Node,
    Vip,
}

impl Aim {
    const ALL: [Self; 4] = [Self::Nowhere, Self::Void, Self::Node, Self::Vip];

    fn title(self) -> &'static str {
        match self {
            Self::Nowhere => "no flood",
            Self::Void => "flood to a host that drops it",
            Self::Node => "flood to the node",
            Self::Vip => "flood through it",
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    span: Span,
}

/// The result of a minute without a pause.
struct Minute {
    through: Contender,
    messages_per_second: f64,
    openings: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Span { rounds, seconds, out } = &arguments.span;
    let seconds = seconds.unwrap_or(SECONDS);
    let span = Duration::from_secs(seconds.into());
    let mut stage = Stage::build(&THROUGH, false)?;
    let (attacker, void) = (stage.add_host("attacker")?, stage.add_host("void")?);
    drop_all(&void)?;
    stage.add_sources(&attacker, &format!("{SOURCES}/15"))?;
    let mut figures = Figures::new();
    let mut minutes = Vec::new();
    for through in THROUGH {
        let vip = SocketAddr::new(stage.address(through), ECHO.front);
        let target = |aim| match aim {
            Aim::Nowhere => None,
            Aim::Void => Some(SocketAddr::new(IpAddr::V4(void.ipv4()), ECHO.front)),
            Aim::Node => Some(SocketAddr::new(IpAddr::V4(stage.node().ipv4()), ECHO.back)),
            Aim::Vip => Some(vip),
        };
        let mut measure = |row: Row, sent: Row, measured: &dyn Fn() -> Result<f64>| {
            let mut aims = Aim::ALL;
            for round in 1..=*rounds {
                eprintln!("{}, {}: round {round} of {rounds}", through.name(), row.name);
                for aim in aims {
                    let flood = target(aim).map(|target| start(&attacker, target)).transpose()?;
                    let started = Instant::now();
                    let value = measured()?;
                    let rate = flood.map_or(Ok(0), Flood::stop)? as f64 / started.elapsed().as_secs_f64();
                    figures.add((through, aim), &[(row, value), (sent, rate)]);
                }
                aims.rotate_left(1);
            }
            anyhow::Ok(())
        };
        measure(STREAM, SENT_BESIDE_STREAM, &|| iperf(stage.client(), vip.ip(), seconds, 1, OFFERED))?;
        let steady = Steady::start(connect_all(stage.client(), vip, CONNECTIONS)?);
        measure(MESSAGES, SENT_BESIDE_MESSAGES, &|| Ok(messages(&steady, span)))?;

        eprintln!("{}: {WHOLE:?} without a pause", through.name());
        let flood = start(&attacker, vip)?;
        let messages_per_second = messages(&steady, WHOLE);
        let openings = flood.stop()?;
        let broken = steady.stop()?;
        ensure!(broken.is_empty(), "{}: have broken: {broken:?}\n{}", through.name(), stage.logs());
        minutes.push(Minute { through, messages_per_second, openings });
    }
    stage.check_planes().context("not all was measured by the plane that it is called after")?;
    println!("{}; {rounds} rounds of {span:?}.\n\n{}", machine(), text(&figures, &minutes));
    write_results(out, &[("flood.json", as_json(&figures, *rounds, span, &minutes))])
}

fn start(attacker: &Host, target: SocketAddr) -> Result<Flood> {
    let SocketAddr::V4(target) = target else { anyhow::bail!("{target}: only IPv4") };
    let seed = u64::from(std::process::id());
    Ok(Flood::start(attacker, &[target], seed, PACE))
}

/// Messages per second on all connections together.
#[expect(clippy::disallowed_methods, reason = "it waits for nothing: this is how long is measured")]
fn messages(steady: &Steady, span: Duration) -> f64 {
    let (before, started) = (steady.rounds(), Instant::now());
    std::thread::sleep(span);
    ((steady.rounds() - before) * CONNECTIONS) as f64 / started.elapsed().as_secs_f64()
}

fn drop_all(host: &Host) -> Result<()> {
    let file = host.directory().join("drop.nft");
    let rules =
        "table ip void { chain in { type filter hook prerouting priority raw; meta l4proto tcp drop; }; }\n";
    std::fs::write(&file, rules)?;
    host.output(&["nft", "-f", &file.display().to_string()]).map(drop)
}

type Who = (Contender, Aim);

/// The results as Markdown.
fn text(figures: &Figures<Who>, minutes: &[Minute]) -> String {
    let mut text = String::from("| |");
    THROUGH.iter().for_each(|through| text.push_str(&format!(" {} |", through.name())));
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(THROUGH.len())));
    let mut line = |title: &str, cell: &dyn Fn(Contender) -> Option<String>| {
        text.push_str(&format!("| {title} |"));
        for through in THROUGH {
            text.push_str(&format!(" {} |", cell(through).unwrap_or_default()));
        }
        text.push('\n');
    };
    for (row, sent) in [(MESSAGES, SENT_BESIDE_MESSAGES), (STREAM, SENT_BESIDE_STREAM)] {
        for aim in Aim::ALL {
            line(&format!("{}, {}, {}", row.name, row.unit, aim.title()), &|through| {
                let Summary { median, min, max } = figures.summary(row, (through, aim))?;
                Some(format!("{} ({} to {})", compact(median), compact(min), compact(max)))
            });
        }
        for aim in [Aim::Node, Aim::Vip] {
            line(&format!("{}, {}, {}", sent.name, sent.unit, aim.title()), &|through| {
                figures.summary(sent, (through, aim)).map(|rate| compact(rate.median))
            });
        }
        for other in [Aim::Nowhere, Aim::Void, Aim::Node] {
            line(&format!("{}: through it in relation to {}", row.name, other.title()), &|through| {
                let ratio = figures.ratio(row, (through, Aim::Vip), &[(through, other)])?;
                Some(format!("{ratio:.2}"))
            });
        }
    }
    for Minute { through, messages_per_second, openings } in minutes {
        let name = through.name();
        text.push_str(&format!(
            "\n{name}: {openings} openings in {WHOLE:?}, {messages_per_second:.0} messages/s, none of {CONNECTIONS} broke."
        ));
    }
    text.push('\n');
    text
}

fn as_json(figures: &Figures<Who>, rounds: u32, span: Duration, minutes: &[Minute]) -> String {
    let all = THROUGH.iter().flat_map(|through| Aim::ALL.map(|aim| (*through, aim)));
    let rows = all.map(|who| {
        json!({
            "through": who.0.name(),
            "flood": who.1.title(),
            "messages_per_second": figures.values(MESSAGES, who),
            "stream_gigabits_per_second": figures.values(STREAM, who),
            "openings_beside_messages_per_second": figures.values(SENT_BESIDE_MESSAGES, who),
            "openings_beside_stream_per_second": figures.values(SENT_BESIDE_STREAM, who),
        })
    });
    let minutes = minutes.iter().map(|minute| {
        json!({
            "through": minute.through.name(),
            "messages_per_second": minute.messages_per_second,
            "openings": minute.openings,
        })
    });
    let whole = json!({
        "machine": machine(),
        "rounds": rounds,
        "seconds": span.as_secs(),
        "rows": Vec::from_iter(rows),
        "minutes": Vec::from_iter(minutes),
    });
    format!("{whole:#}\n")
}
