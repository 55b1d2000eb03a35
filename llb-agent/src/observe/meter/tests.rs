// SPDX-License-Identifier: Apache-2.0
//! Rates from samples, with counters that begin, start again at 0, move and vanish.

use std::time::Duration;

use super::*;
use crate::clock;
use crate::model::{LinkCount, Port, Protocol};

fn frontend(port: i64) -> Frontend {
    Frontend { vip: [192, 0, 2, 100].into(), port: Port::new(port).unwrap(), protocol: Protocol::Tcp }
}

fn backend(octet: u8) -> Backend {
    Backend { address: ([192, 0, 2, octet], 30080).into() }
}

fn counter(number: u64, backend: Option<Backend>, new: u64) -> Counter {
    let counted = Counted { new, bytes_in: 100 * new, failures: new / 4, ..Counted::default() };
    Counter {
        number,
        frontend: frontend(80),
        backend,
        counted,
        active: 2,
        connect_time: None,
        round_trip: None,
    }
}

fn packet(counters: Vec<Counter>) -> Counts {
    Counts { packet: counters, ..Counts::default() }
}

/// Takes in the samples, a second apart.
fn metered(samples: impl IntoIterator<Item = Counts>) -> Meter {
    let (mut meter, start) = (Meter::default(), clock::now_std());
    for (secs, sample) in (0..).zip(samples) {
        meter.step(sample, start + Duration::from_secs(secs));
    }
    meter
}

/// New connections per second over ten seconds, and in total.
fn new(meter: &Meter, flow: Option<&Flow>) -> Option<(f64, u64)> {
    let flow = flow?;
    Some((meter.rates(flow, 10)?.per_second[0], flow.totals().new))
}

#[test]
fn a_frontend_of_the_packet_plane_has_what_its_backends_have_together() {
    let of =
        |one, other| packet(vec![counter(1, Some(backend(31)), one), counter(2, Some(backend(32)), other)]);
    let meter = metered([of(1_000, 500), of(1_004, 500), of(1_008, 502)]);
    let flow = meter.frontend(&frontend(80)).unwrap();
    assert_eq!((new(&meter, Some(flow)), flow.active(meter.sample())), (Some((5.0, 10)), 4));
    assert_eq!(new(&meter, meter.backend(frontend(80), backend(31))), Some((4.0, 8)));
    assert_eq!(meter.rates(flow, 1).unwrap().per_second, [6.0, 600.0, 0.0, 0.0, 1.0]);
    assert!(flow.of(CountedBy::Relay, meter.sample()).is_none());
}

#[test]
fn a_relayed_frontend_has_its_own_counter_and_the_failures_of_its_backends() {
    let of = |new| Counts {
        relay: vec![counter(1, None, new), counter(2, Some(backend(31)), new)],
        ..Counts::default()
    };
    let meter = metered([of(0), of(8)]);
    let flow = meter.frontend(&frontend(80)).unwrap();
    let expected = Counted { new: 8, bytes_in: 800, failures: 4, ..Counted::default() };
    assert_eq!((flow.totals(), flow.active(meter.sample())), (expected, 2));
    assert!(flow.of(CountedBy::Relay, meter.sample()).is_some());
}

#[test]
fn what_an_agent_before_has_counted_makes_no_rate() {
    let meter = metered([packet(vec![counter(1, Some(backend(31)), 1 << 40)])]);
    assert_eq!(new(&meter, meter.frontend(&frontend(80))), None);
    let same = || packet(vec![counter(1, Some(backend(31)), 1 << 40)]);
    let meter = metered([same(), same()]);
    assert_eq!(new(&meter, meter.frontend(&frontend(80))), Some((0.0, 0)));
}

#[test]
fn what_was_relayed_before_the_first_sample_counts() {
    let relayed = Counts { relay: vec![counter(1 << 32, None, 5)], shared: 1, ..Counts::default() };
    let meter = metered([relayed]);
    assert_eq!(meter.frontend(&frontend(80)).unwrap().totals().new, 5);
    assert_eq!(meter.left_out(), 1, "a counter that several share has no row");
}

#[test]
fn a_counter_that_begins_later_counts_from_zero() {
    let meter = metered([packet(Vec::new()), packet(vec![counter(1, Some(backend(31)), 6)])]);
    assert_eq!(new(&meter, meter.frontend(&frontend(80))), Some((6.0, 6)));
}

#[test]
fn a_backend_that_is_added_again_has_another_counter_and_its_frontend_loses_nothing() {
    let of = |number, new| packet(vec![counter(number, Some(backend(31)), new)]);
    let meter = metered([of(1, 100), of(1, 110), of(2, 200)]);
    assert_eq!(new(&meter, meter.frontend(&frontend(80))), Some((105.0, 210)));
}

#[test]
fn a_move_from_one_plane_to_the_other_is_no_end() {
    let relay = |new| Counts { relay: vec![counter(1 << 32, None, new)], ..Counts::default() };
    let both = Counts { packet: vec![counter(1, Some(backend(31)), 3)], ..relay(12) };
    let after = packet(vec![counter(1, Some(backend(31)), 9)]);
    let meter = metered([relay(0), relay(10), both, after]);
    assert_eq!(new(&meter, meter.frontend(&frontend(80))), Some((7.0, 21)));
    assert_eq!(meter.trail(Some("192.0.2.100:80/TCP")).unwrap().points().len(), 3);
}

#[test]
fn what_vanishes_is_forgotten() {
    let meter = metered([
        packet(vec![counter(1, Some(backend(31)), 1)]),
        packet(vec![counter(1, Some(backend(31)), 2)]),
        packet(Vec::new()),
    ]);
    assert!(meter.frontend(&frontend(80)).is_none() && meter.backend(frontend(80), backend(31)).is_none());
    assert!(meter.trail(Some("192.0.2.100:80/TCP")).is_none());
    let sum: Vec<f32> = meter.trail(None).unwrap().points().map(|point| point[1]).collect();
    assert_eq!(sum, [1.0, 0.0], "what all have together goes on");
}

#[test]
fn a_link_that_is_made_anew_counts_from_zero() {
    let of = |packets| Counts {
        links: vec![LinkCount { link: "eth0".to_owned(), packets, bytes: 60 * packets }],
        reasons: vec![(Reason::Martian, packets / 10)],
        ..Counts::default()
    };
    let meter = metered([of(1_000), of(1_100), of(50)]);
    let (link, reason) = (&meter.links["eth0"], &meter.reasons[&Reason::Martian]);
    assert_eq!(link.totals, [50, 3_000]);
    assert_eq!(meter.tally_rates(link, 10).unwrap().per_second, [75.0, 4_500.0]);
    assert_eq!(meter.tally_rates(reason, 1).unwrap().per_second, [5.0]);
}

#[test]
fn many_frontends_have_longer_steps_and_too_many_have_none() {
    let of = |count: usize| {
        let counter = |n: usize| Counter {
            frontend: Frontend { vip: std::net::Ipv4Addr::from(n as u32).into(), ..frontend(80) },
            ..counter(n as u64, Some(backend(31)), 0)
        };
        packet((0..count).map(counter).collect())
    };
    let most = FINE + COARSE;
    let meter = metered([of(most + 1), of(most + 1)]);
    let fine = meter.trails.values().filter(|trail| trail.is_fine()).count();
    assert_eq!((meter.frontends.all().len(), meter.trails.len(), fine), (most, most, FINE));
    assert_eq!(meter.left_out(), 1);
}

#[test]
fn counters_beyond_the_limit_make_no_rate_when_there_is_room_for_them() {
    let relayed = |new| Counts {
        packet: (1..=COUNTERS as u64).map(|n| counter(n, Some(backend(31)), 0)).collect(),
        relay: vec![counter(1 << 32, None, new)],
        ..Counts::default()
    };
    let alone = Counts { packet: Vec::new(), ..relayed(7_000) };
    let meter = metered([relayed(6_000), relayed(7_000), alone]);
    assert_eq!(meter.frontend(&frontend(80)).unwrap().totals().new, 0);
}

#[test]
fn what_is_asked_for_between_two_samples_is_in_the_totals_at_once_and_in_the_next_step() {
    let of = |new| packet(vec![counter(1, Some(backend(31)), new)]);
    let mut meter = metered([of(0), of(2)]);
    meter.catch_up(&of(7));
    let flow = meter.frontend(&frontend(80)).unwrap();
    assert_eq!((new(&meter, Some(flow)), flow.active(meter.sample())), (Some((2.0, 7)), 2));
    let mut later = counter(2, Some(backend(32)), 4);
    later.active = 0;
    meter.catch_up(&packet(vec![counter(1, Some(backend(31)), 7), later]));
    let third = clock::now_std() + Duration::from_secs(100);
    meter.stepped = Some(third);
    meter.step(packet(vec![counter(1, Some(backend(31)), 8), later]), third + Duration::from_secs(1));
    let rates = |flow| meter.rates(flow, 1).unwrap().per_second[0];
    assert_eq!(meter.frontend(&frontend(80)).map(rates), Some(10.0));
    assert_eq!(meter.backend(frontend(80), backend(32)).map(rates), Some(4.0));
}

#[test]
fn series_beyond_the_limit_are_one_that_never_goes_down() {
    let counter = |n: usize| Counter {
        backend: Some(Backend { address: (std::net::Ipv4Addr::from(n as u32), 80).into() }),
        ..counter(n as u64, None, 3)
    };
    let of = |count: usize| packet((0..count).map(counter).collect());
    let [_, most] = SHOWN;
    let mut meter = metered([packet(Vec::new()), of(most + 2)]);
    assert_eq!(meter.shown_backends().count(), most);
    let others = |meter: &Meter| {
        let part = meter.others(Of::Backends, CountedBy::Packet).unwrap();
        (part.totals.new, part.active)
    };
    assert_eq!(others(&meter), (6, 4));
    meter.catch_up(&of(most));
    assert_eq!(others(&meter), (6, 0));
    assert!(meter.others(Of::Backends, CountedBy::Relay).is_none());
    assert_eq!(meter.left_out(), 0);
}

#[test]
fn a_place_with_series_is_given_to_another_one() {
    let [_, most] = SHOWN;
    let of = |backends: std::ops::Range<usize>| {
        let counter = |n: usize| Counter {
            backend: Some(Backend { address: (std::net::Ipv4Addr::from(n as u32), 80).into() }),
            ..counter(n as u64, None, 3)
        };
        packet(backends.map(counter).collect())
    };
    let shown = |meter: &Meter| meter.shown_backends().count();
    // Two beyond the limit; ten with series go; ten others come, while the two stay where they are.
    let mut meter = metered([of(0..most + 2), of(10..most + 2)]);
    assert_eq!(shown(&meter), most - 10);
    let third = clock::now_std() + Duration::from_secs(100);
    meter.step(of(10..most + 12), third);
    assert_eq!(shown(&meter), most);
    meter.step(of(10..most + 13), third + Duration::from_secs(1));
    assert_eq!(shown(&meter), most);
}
