// SPDX-License-Identifier: Apache-2.0
//! Kills the agent with SIGKILL at random moments while Services change. The next one must reach the desired
//! state, leave nothing stray, and not touch foreign addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use llb_tests::client::http_get;
use llb_tests::manifests::PortSpec;
use llb_tests::wait_until;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// The longest pause before a change, and before a kill. A kill may thus come before the agent has read its
/// links, or after it has settled.
const LONGEST_LIFE: Duration = Duration::from_millis(250);
/// Number of Services that come and go, and number of VIPs that each chooses from.
const SERVICES: u8 = 4;
const VIPS: u8 = 5;

pub(crate) fn the_agent_converges_after_100_kills_at_random_moments(plane: Plane) {
    crash(plane, 100, "kernel");
}

pub(crate) fn the_agent_converges_after_random_kills_with_tags_in_a_file(plane: Plane) {
    crash(plane, 25, "file");
}

fn crash(plane: Plane, kills: u32, tag: &str) {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // Foreign addresses: one that is no VIP, and one that is.
    let mut setup = Setup::with_preparation(plane, &["--address-tag", tag], |lab| {
        let (beside, among) = (lab.vip(40), lab.vip(0));
        let commands = format!("addr add {beside}/32 dev eth0\naddr add {among}/32 dev eth0\n");
        lab.balancer().ip(&commands).unwrap();
    });
    setup.serve_http(30080);
    let foreign: BTreeSet<String> = setup.lab.balancer().addresses().unwrap().into_iter().collect();
    setup.agent.process().kill9().unwrap();

    let mut wanted: Vec<Option<Vec<IpAddr>>> = vec![None; usize::from(SERVICES)];
    let mut unfinished = 0;
    for kill in 0..kills {
        setup.spawn_agent();
        live_on(&mut setup, &mut random);
        for _ in 0..random.random_range(1..4) {
            change(&setup, &mut wanted, &mut random);
        }
        live_on(&mut setup, &mut random);
        setup.agent.process().kill9().unwrap();
        let now: BTreeSet<String> = setup.lab.balancer().addresses().unwrap().into_iter().collect();
        assert!(foreign.is_subset(&now), "seed {seed}, kill {kill}: {foreign:?} were there, now {now:?}");
        unfinished += u32::from(now != addresses(&setup, &wanted, &foreign));
    }
    println!("{unfinished} of {kills} kills left work to the next agent");

    setup.restart_agent();
    let vips: BTreeSet<IpAddr> = wanted.iter().flatten().flatten().copied().collect();
    let expected = addresses(&setup, &wanted, &foreign);
    wait_until(LIMIT, "exactly the wanted addresses", || {
        let now: BTreeSet<String> = setup.lab.balancer().addresses()?.into_iter().collect();
        anyhow::ensure!(now == expected, "seed {seed}: {now:?}, not {expected:?}");
        Ok(Some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", setup.agent.log()));
    for vip in vips {
        http_get(setup.client(), SocketAddr::new(vip, 80)).unwrap();
    }

    for service in 0..SERVICES {
        if wanted[usize::from(service)].is_some() {
            setup.manifests.remove(&file(service)).unwrap();
        }
    }
    wait_until(LIMIT, "only foreign addresses", || {
        let now: BTreeSet<String> = setup.lab.balancer().addresses()?.into_iter().collect();
        anyhow::ensure!(now == foreign, "seed {seed}: {now:?}, not {foreign:?}");
        Ok(Some(()))
    })
    .unwrap();
}

/// The addresses that must be on the link.
fn addresses(setup: &Setup, wanted: &[Option<Vec<IpAddr>>], foreign: &BTreeSet<String>) -> BTreeSet<String> {
    let vips = wanted.iter().flatten().flatten().filter(|&&vip| vip != setup.vip());
    let vips = vips.map(|vip| format!("{vip}/{}", if vip.is_ipv4() { 24 } else { 64 }));
    vips.chain(foreign.iter().cloned()).collect()
}

/// Lets the agent run for a random time. It must not end by itself.
fn live_on(setup: &mut Setup, random: &mut StdRng) {
    let span = LONGEST_LIFE.mul_f64(random.random());
    assert!(setup.agent.process().wait_exit(span).is_err(), "{}", setup.agent.log());
}

/// Writes or removes a random Service. Each Service chooses from its own VIPs.
fn change(setup: &Setup, wanted: &mut [Option<Vec<IpAddr>>], random: &mut StdRng) {
    let service = random.random_range(0..SERVICES);
    let slot = usize::from(service);
    if random.random_range(0..3) == 0 {
        if wanted[slot].take().is_some() {
            setup.manifests.remove(&file(service)).unwrap();
        }
        return;
    }
    let number = service * VIPS + random.random_range(0..VIPS);
    let vips = match random.random_range(0..3) {
        0 => vec![setup.lab.vip(number)],
        1 => vec![setup.lab.vip_v6(number)],
        _ => vec![setup.lab.vip(number), setup.lab.vip_v6(number)],
    };
    setup.write_service(&format!("s{service}"), &vips, &[PortSpec::tcp("http", 80, 30080)]);
    wanted[slot] = Some(vips);
}

fn file(service: u8) -> String {
    format!("s{service}.yaml")
}
