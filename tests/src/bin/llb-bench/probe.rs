// SPDX-License-Identifier: Apache-2.0
//! What is measured, with which program, and how its output is read.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use llb_tests::{Host, wait_until};

use crate::cpu::Watch;
use crate::echo::{self, Sink};
use crate::figures::Row;
use crate::programs::{ECHO, HTTP, IPERF, SINK};

/// Limit for everything that should be ready at once.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

/// Connections that wrk keeps open, or opens one after the other.
const WRK_CONNECTIONS: &str = "64";

const KEEP_ALIVE: Row = Row::more("HTTP, kept alive, 64 connections", "requests/s");
const NEW: Row = Row::more("HTTP, a new connection each, 64 at once", "requests/s");
const BULK_1: Row = Row::more("bulk, 1 stream", "Gbit/s");
const BULK_16: Row = Row::more("bulk, 16 streams", "Gbit/s");
const P50: Row = Row::less("64 bytes there and back, p50", "us");
const P99: Row = Row::less("64 bytes there and back, p99", "us");
const UDP: Row = Row::more("UDP, 64 bytes there and back, 8 clients", "answers/s");

const UDP_ONE_WAY: Row = Row::more("UDP, 64 bytes, one way", "packets/s");

/// Everything that can be measured, in the order of the tables.
pub(crate) const ROWS: [Row; 8] = [KEEP_ALIVE, NEW, BULK_1, BULK_16, P50, P99, UDP, UDP_ONE_WAY];

const KEEP_ALIVE_CPU: Row = Row::less("CPU, HTTP, kept alive", "us/request");
const NEW_CPU: Row = Row::less("CPU, HTTP, a new connection each", "us/request");
const BULK_1_CPU: Row = Row::less("CPU, bulk, 1 stream", "us/Mbit");
const BULK_16_CPU: Row = Row::less("CPU, bulk, 16 streams", "us/Mbit");
const UDP_CPU: Row = Row::less("CPU, UDP, there and back", "us/answer");
const UDP_ONE_WAY_CPU: Row = Row::less("CPU, UDP, one way", "us/packet");

/// What the whole machine's cores spend on each unit of what is measured.
pub(crate) const CPU_ROWS: [Row; 6] =
    [KEEP_ALIVE_CPU, NEW_CPU, BULK_1_CPU, BULK_16_CPU, UDP_CPU, UDP_ONE_WAY_CPU];

/// The rows of HTTP, and the aims for what llb spends in relation to plain routing.
pub(crate) const HTTP_ROWS: [Row; 4] = [KEEP_ALIVE, NEW, KEEP_ALIVE_CPU, NEW_CPU];
pub(crate) const CPU_AIMS: [(Row, f64); 2] = [(KEEP_ALIVE_CPU, 1.05), (NEW_CPU, 1.08)];

/// One measurement, which gives one or two rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    KeepAlive,
    NewConnections,
    Bulk1,
    Bulk16,
    RoundTrip,
    Datagrams,
    Flood,
}

impl Probe {
    pub(crate) const ALL: [Self; 7] = [
        Self::KeepAlive,
        Self::NewConnections,
        Self::Bulk1,
        Self::Bulk16,
        Self::RoundTrip,
        Self::Datagrams,
        Self::Flood,
    ];

    /// All probes with answers: without the flood of datagrams, which needs a sink.
    pub(crate) const THERE_AND_BACK: [Self; 6] =
        [Self::KeepAlive, Self::NewConnections, Self::Bulk1, Self::Bulk16, Self::RoundTrip, Self::Datagrams];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::KeepAlive => "wrk, kept alive",
            Self::NewConnections => "wrk, new connections",
            Self::Bulk1 => "iperf3, 1 stream",
            Self::Bulk16 => "iperf3, 16 streams",
            Self::RoundTrip => "round trips",
            Self::Datagrams => "UDP there and back",
            Self::Flood => "UDP one way",
        }
    }

    /// Whether it needs UDP, which HAProxy does not have.
    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Self::Datagrams | Self::Flood)
    }

    /// The row of CPU time.
    fn cpu_row(self) -> Option<Row> {
        Some(match self {
            Self::KeepAlive => KEEP_ALIVE_CPU,
            Self::NewConnections => NEW_CPU,
            Self::Bulk1 => BULK_1_CPU,
            Self::Bulk16 => BULK_16_CPU,
            // The cores are idle half of the time, so most of the work is to sleep and to wake up.
            Self::RoundTrip => return None,
            Self::Datagrams => UDP_CPU,
            Self::Flood => UDP_ONE_WAY_CPU,
        })
    }

    /// Measures, also what all cores of the machine spend on each unit.
    pub(crate) fn run(self, client: &Host, to: IpAddr, seconds: u32, sink: &Sink) -> Result<Vec<(Row, f64)>> {
        let watch = Watch::start()?;
        let (mut values, units) = self.measure(client, to, seconds, sink)?;
        let busy_us = watch.busy_us()?;
        values.extend(self.cpu_row().map(|row| (row, busy_us / units)));
        Ok(values)
    }

    /// The values, and how many units of [`Probe::cpu_row`] there were.
    fn measure(self, client: &Host, to: IpAddr, seconds: u32, sink: &Sink) -> Result<(Vec<(Row, f64)>, f64)> {
        let one = |row, rate: f64, units_per_second: f64| {
            (vec![(row, rate)], units_per_second * f64::from(seconds))
        };
        Ok(match self {
            Self::KeepAlive => {
                let Requests { rate, count } = wrk(client, to, seconds, "keep-alive")?;
                (vec![(KEEP_ALIVE, rate)], count)
            }
            Self::NewConnections => {
                let Requests { rate, count } = wrk(client, to, seconds, "close")?;
                (vec![(NEW, rate)], count)
            }
            Self::Bulk1 => {
                let rate = iperf(client, to, seconds, 1, UNLIMITED)?;
                one(BULK_1, rate, rate * MBIT_PER_GBIT)
            }
            Self::Bulk16 => {
                let rate = iperf(client, to, seconds, 16, UNLIMITED)?;
                one(BULK_16, rate, rate * MBIT_PER_GBIT)
            }
            Self::RoundTrip => {
                let [p50, p99] = echo::round_trips(client, SocketAddr::new(to, ECHO.front), seconds)?;
                (vec![(P50, p50), (P99, p99)], 0.0)
            }
            Self::Datagrams => {
                let rate = echo::datagrams(client, SocketAddr::new(to, ECHO.front), seconds)?;
                one(UDP, rate, rate)
            }
            Self::Flood => {
                let rate = echo::flood(client, SocketAddr::new(to, SINK.front), seconds, sink)?;
                one(UDP_ONE_WAY, rate, rate)
            }
        })
    }
}

const MBIT_PER_GBIT: f64 = 1e3;

/// What wrk has done.
struct Requests {
    /// For each second.
    rate: f64,
    /// All of them; wrk takes a little longer than it is told.
    count: f64,
}

fn wrk(client: &Host, to: IpAddr, seconds: u32, connection: &str) -> Result<Requests> {
    let output = client.output(&[
        "wrk",
        "--threads=2",
        &format!("--connections={WRK_CONNECTIONS}"),
        &format!("--duration={seconds}s"),
        &format!("--header=Connection: {connection}"),
        &format!("http://{to}:{}/", HTTP.front),
    ])?;
    anyhow::ensure!(
        !output.contains("Non-2xx") && !output.contains("Socket errors"),
        "wrk had failures:\n{output}"
    );
    let rate = output.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    let count = output.lines().find_map(|line| line.split_once(" requests in ")?.0.trim().parse().ok());
    let requests = rate.zip(count).map(|(rate, count)| Requests { rate, count });
    requests.with_context(|| format!("wrk says no rate:\n{output}"))
}

/// No limit of the bit rate.
const UNLIMITED: &str = "0";

/// Gbit/s of `streams` streams, as iperf3 reports them, each limited to `bitrate`. The server runs one test at
/// a time, and needs a moment after each.
pub(crate) fn iperf(client: &Host, to: IpAddr, seconds: u32, streams: u32, bitrate: &str) -> Result<f64> {
    let (address, port) = (to.to_string(), IPERF.front.to_string());
    let (seconds, streams) = (seconds.to_string(), streams.to_string());
    let bits = wait_until(LIMIT, "iperf3's result", || {
        let output = client.output(&[
            "iperf3",
            "--json",
            "--client",
            &address,
            "--port",
            &port,
            "--time",
            &seconds,
            "--parallel",
            &streams,
            "--bitrate",
            bitrate,
        ])?;
        // Only the JSON tells that the server is still busy with the end of the last test.
        let result: Value = serde_json::from_str(&output)?;
        let bits = result["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(Some(bits.with_context(|| format!("iperf3 says no rate:\n{output}"))?))
    })?;
    Ok(bits / 1e9)
}
