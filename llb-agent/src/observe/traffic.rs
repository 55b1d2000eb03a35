// SPDX-License-Identifier: Apache-2.0
//! The rows of the API that have traffic, made from the meter. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::meter::{CountedBy, Flow, Meter, NUMBERS, Rates, Tally};
use crate::model::{Fill, RATED};
use crate::reconcile::Report;

/// The traffic of a frontend, or of one of its backends. The packet plane counts the bytes of whole IP packets, the relay those
/// of the payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// TCP connections, UDP sessions and flows that are open. The packet plane counts them every few seconds.
    pub active: u64,
    /// How many began since this agent started to count.
    pub new: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients; 0 in mode `dsr`, where they do not come through this machine.
    pub bytes_out: u64,
    /// Connections and datagrams that the relay refused; `null`: only the packet plane serves, which does not count them here.
    pub refused: Option<u64>,
    /// Failed attempts to reach a backend; the packet plane counts at most one a second for each.
    pub failures: u64,
    /// Rates per second; `null`: the agent has just started to count.
    pub per_second: Option<PerSecond>,
    /// How many microseconds a backend takes to accept, smoothed; `null`: not known.
    pub connect_micros: Option<u64>,
    /// The round trip time to a backend in microseconds, smoothed; `null`: not known.
    pub round_trip_micros: Option<u64>,
}

/// Averages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerSecond {
    /// Over how many seconds.
    pub over_seconds: f64,
    /// See [`Traffic`].
    pub new: f64,
    /// See [`Traffic`].
    pub bytes_in: f64,
    /// See [`Traffic`].
    pub bytes_out: f64,
    /// See [`Traffic`].
    pub refused: Option<f64>,
    /// See [`Traffic`].
    pub failures: f64,
}

impl Traffic {
    pub(super) fn of(meter: &Meter, flow: &Flow, over: usize) -> Self {
        let (totals, sample) = (flow.totals(), meter.sample());
        let counts_refusals = flow.of(CountedBy::Relay, sample).is_some();
        let per_second = meter.rates(flow, over).map(|Rates::<RATED> { per_second, secs }| {
            let [new, bytes_in, bytes_out, refused, failures] = per_second.map(short);
            let refused = counts_refusals.then_some(refused);
            PerSecond { over_seconds: short(secs), new, bytes_in, bytes_out, refused, failures }
        });
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            active: flow.active(sample),
            new: totals.new,
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
            refused: counts_refusals.then_some(totals.refused),
            failures: totals.failures,
            per_second,
            connect_micros: flow.connect_time.map(micros),
            round_trip_micros: flow.round_trip.map(micros),
        }
    }
}

/// `GET /api/v1/links`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Links {
    /// The links with a program of the packet plane.
    pub links: Vec<LinkRow>,
    /// Packets that were not simply forwarded, over all links together.
    pub reasons: Vec<ReasonRow>,
    /// The packet plane's maps that have a limit.
    pub maps: Vec<FillRow>,
    /// The relay's limits.
    pub limits: Vec<FillRow>,
    /// The pools, each once for each family.
    pub pools: Vec<PoolRow>,
}

/// A link with a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkRow {
    /// The link device.
    pub link: String,
    /// `xdp`, `xdp-generic` or `tc`.
    pub hook: String,
    /// Why it is there.
    pub why: String,
    /// Frames that came in since the link first had a program; `null`: not known.
    pub packets: Option<u64>,
    /// Bytes of those frames.
    pub bytes: Option<u64>,
    /// By the second.
    pub packets_per_second: Option<f64>,
    /// By the second.
    pub bytes_per_second: Option<f64>,
}

/// How often the programs had a reason not to forward a packet, or a note about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReasonRow {
    /// One of those in docs/datapath.md.
    pub reason: String,
    /// What became of the packet: `pass`, `drop` or `forward`.
    pub verdict: String,
    /// How many packets, since the maps were made.
    pub packets: u64,
    /// By the second.
    pub packets_per_second: Option<f64>,
}

/// How full something is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FillRow {
    /// What it is.
    pub name: String,
    /// How much is in use.
    pub used: u64,
    /// How much there can be.
    pub most: u64,
}

/// How full a pool is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolRow {
    /// Its name, or its ranges.
    pub pool: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Addresses that Services have.
    pub used: u64,
    /// Addresses that it can give.
    pub most: u64,
}

/// The rows of links, reasons, maps, limits and pools.
pub(crate) fn links(report: &Report, meter: &Meter, over: usize) -> Links {
    let link = |plane: &crate::model::LinkPlane| {
        let tally = meter.links.get(&plane.link);
        let rates = tally.and_then(|tally| meter.tally_rates(tally, over));
        LinkRow {
            link: plane.link.clone(),
            hook: plane.hook.to_string(),
            why: plane.why.to_string(),
            packets: tally.map(|tally| tally.totals[0]),
            bytes: tally.map(|tally| tally.totals[1]),
            packets_per_second: rates.map(|rates| short(rates.per_second[0])),
            bytes_per_second: rates.map(|rates| short(rates.per_second[1])),
        }
    };
    let reason = |(reason, tally): (&llb_common::reason::Reason, &Tally<1>)| ReasonRow {
        reason: reason.name().to_owned(),
        verdict: format!("{:?}", reason.verdict()).to_lowercase(),
        packets: tally.totals[0],
        packets_per_second: meter.tally_rates(tally, over).map(|rates| short(rates.per_second[0])),
    };
    let pool = |pool: &crate::model::PoolUsage| PoolRow {
        pool: pool.pool.clone(),
        family: pool.family.to_string(),
        used: pool.used,
        most: pool.total,
    };
    Links {
        links: report.planes.links.iter().map(link).collect(),
        reasons: meter.reasons.iter().map(reason).collect(),
        maps: meter.maps.iter().map(fill).collect(),
        limits: meter.limits.iter().map(fill).collect(),
        pools: report.desired.pools.iter().map(pool).collect(),
    }
}

fn fill(fill: &Fill) -> FillRow {
    FillRow { name: fill.name.to_lowercase(), used: fill.used, most: fill.most }
}

/// `GET /api/v1/history`: what went through in the last ten minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// `null`: all frontends together.
    pub frontend: Option<String>,
    /// How many seconds each number stands for: 1 or 10.
    pub step_seconds: u32,
    /// When the last step ended.
    pub end: Timestamp,
    /// Averages of what was open, the oldest first.
    pub active: Vec<f32>,
    /// By the second.
    pub new: Vec<f32>,
    /// By the second.
    pub bytes_in: Vec<f32>,
    /// By the second.
    pub bytes_out: Vec<f32>,
    /// By the second; 0 where only the packet plane serves.
    pub refused: Vec<f32>,
    /// By the second.
    pub failures: Vec<f32>,
}

/// What went through a frontend, or through all. `None`: nothing is known of it.
pub(crate) fn past(meter: &Meter, frontend: Option<&str>, now: std::time::SystemTime) -> Option<Past> {
    let trail = meter.trail(frontend)?;
    let now = Timestamp::try_from(now).unwrap_or_default();
    let end = now.checked_sub(SignedDuration::from_secs(trail.rest_secs().into())).unwrap_or(now);
    let mut numbers: [Vec<f32>; NUMBERS] = Default::default();
    for point in trail.points() {
        numbers.iter_mut().zip(point).for_each(|(numbers, number)| numbers.push(*number));
    }
    let [active, new, bytes_in, bytes_out, refused, failures] = numbers;
    Some(Past {
        frontend: frontend.map(str::to_owned),
        step_seconds: trail.step_secs(),
        end: Timestamp::from_second(end.as_second()).unwrap_or(end),
        active,
        new,
        bytes_in,
        bytes_out,
        refused,
        failures,
    })
}

/// Rounds to three digits after the point, since nobody reads more.
fn short(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}
