// SPDX-License-Identifier: Apache-2.0
//! Many VIPs, of which half are at a box that is cut off: how long it takes until the last one answers elsewhere.

#![expect(clippy::disallowed_methods, reason = "it measures by the real clock")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llb_agent::model::share_of;
use llb_tests::environment::failovers;
use llb_tests::{Host, manifests, wait_until};

use super::boxes::{Group, HTTP, Member, UDP};
use super::figures::Figures;
use crate::plane::Plane;
use crate::setup::LIMIT;

/// Services, each with a VIP of both families; of a run that measures, too. More would not fit into the kernel's tables of
/// neighbours, which all namespaces share.
const SERVICES: u32 = 40;
const SERVICES_MEASURED: u32 = 500;

/// How often they are cut off.
const CUTS: u64 = 1;
const CUTS_MEASURED: u64 = 5;

/// Between two rounds of datagrams.
const EVERY: Duration = Duration::from_millis(20);
/// Datagrams between two looks for answers: the buffer of a socket is small.
const BURST: usize = 50;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn many_vips_move_with_their_box() {
    let pools = ["--pool", "far=198.18.0.0/22+routed=true", "--pool", "far6=2001:db8:2::/64+routed=true"];
    let mut group = Group::new(Plane::Tc, &pools);
    let router = group.lab.host("router");
    router.ip("route add 198.18.0.0/22 dev eth0\nroute add 2001:db8:2::/64 dev eth0\n").unwrap();
    let (services, cuts) = match failovers() {
        Some(_) => (SERVICES_MEASURED, CUTS_MEASURED),
        None => (SERVICES, CUTS),
    };
    let one = |number| manifests::service(&format!("s{number}"), &vips(number), &[UDP]);
    let yaml: String = (1..=services).map(|number| one(number) + "---\n").collect();
    group.manifests.write("many.yaml", &yaml).unwrap();
    group.serve(&[HTTP], "llb.dev/mode: nat");
    let all: Vec<IpAddr> = (1..=services).flat_map(vips).collect();
    wait_until_each_is_at_one_box(&group, &all);

    let mut figures = Figures::default();
    for _ in 0..cuts {
        let here = group.members[1].shares();
        let moving: Vec<IpAddr> = all.iter().copied().filter(|vip| here.contains(&share_of(*vip))).collect();
        assert!(!moving.is_empty(), "{}", group.logs());
        let probe = Probes::start(&group.client, moving.clone());
        probe.wait_until_all_answer(&group);
        group.cut_off(1);
        wait_until(LIMIT, "all VIPs to be at box-a", || {
            Ok((count(&group.members[0], &all) == all.len()).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
        probe.wait_until_all_answer(&group);
        figures.note(&format!("{} of {} VIPs: gap", moving.len(), all.len()), probe.stop());
        group.heal(1);
        wait_until(LIMIT, "box-b to have its shares again", || {
            Ok((group.members[1].shares() == here).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
        wait_until_each_is_at_one_box(&group, &all);
    }
    figures.print();
}

fn vips(number: u32) -> [IpAddr; 2] {
    let v4 = Ipv4Addr::from_bits(0xc612_0000 + number);
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, number as u16);
    [v4.into(), v6.into()]
}

fn count(member: &Member, all: &[IpAddr]) -> usize {
    let here = member.host.addresses().unwrap();
    let here = here.iter().filter_map(|address| address.split_once('/')?.0.parse::<IpAddr>().ok());
    here.filter(|address| all.contains(address)).count()
}

fn wait_until_each_is_at_one_box(group: &Group, all: &[IpAddr]) {
    wait_until(LIMIT, "each VIP to be at one box", || {
        let counts: Vec<usize> = group.members.iter().map(|member| count(member, all)).collect();
        if counts.iter().sum::<usize>() == all.len() { Ok(Some(())) } else { anyhow::bail!("{counts:?}") }
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
}

/// What is known about the answers of one VIP.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    last: Option<Instant>,
    longest: Duration,
}

/// A stream of datagrams to each of many VIPs. Dropping it stops it.
struct Probes {
    stop: Arc<AtomicBool>,
    /// Set by who waits, and taken back when each VIP has answered since then.
    asked: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Duration>>>,
}

impl Probes {
    fn start(host: &Host, vips: Vec<IpAddr>) -> Self {
        let open = |any: &str| {
            let socket = host.run_inside(|| UdpSocket::bind(any)).unwrap().unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let sockets = [open("0.0.0.0:0"), open("[::]:0")];
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (stopped, wanted) = (stop.clone(), asked.clone());
        let thread = Some(std::thread::spawn(move || run(&sockets, &vips, &stopped, &wanted)));
        Self { stop, asked, thread }
    }

    fn wait_until_all_answer(&self, group: &Group) {
        self.asked.store(true, Ordering::Relaxed);
        wait_until(
            LIMIT,
            "an answer of each VIP",
            || Ok((!self.asked.load(Ordering::Relaxed)).then_some(())),
        )
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    }

    /// For each VIP, the longest time between two answers.
    fn stop(mut self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(sockets: &[UdpSocket; 2], vips: &[IpAddr], stop: &AtomicBool, asked: &AtomicBool) -> Vec<Duration> {
    let mut known: BTreeMap<IpAddr, Answers> = vips.iter().map(|vip| (*vip, Answers::default())).collect();
    let mut since = None;
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        for some in vips.chunks(BURST) {
            for vip in some {
                // A refusal of a box that is about to change is an answer that did not come.
                let _ =
                    sockets[usize::from(vip.is_ipv6())].send_to(b"probe", SocketAddr::new(*vip, UDP.port));
            }
            sockets.iter().for_each(|socket| receive(socket, &mut known));
        }
        while begin.elapsed() < EVERY {
            pause(Duration::from_millis(1));
            sockets.iter().for_each(|socket| receive(socket, &mut known));
        }
        if asked.load(Ordering::Relaxed) {
            let since = *since.get_or_insert(begin);
            let has_answered = |answers: &Answers| answers.last.is_some_and(|last| last > since);
            if known.values().all(has_answered) {
                asked.store(false, Ordering::Relaxed);
            }
        } else {
            since = None;
        }
    }
    known.values().map(|answers| answers.longest).collect()
}

fn receive(socket: &UdpSocket, known: &mut BTreeMap<IpAddr, Answers>) {
    let mut buffer = [0; 512];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((_, from)) => {
                let now = Instant::now();
                if let Some(answers) = known.get_mut(&from.ip()) {
                    let gap = answers.last.map_or(Duration::ZERO, |last| now - last);
                    answers.longest = answers.longest.max(gap);
                    answers.last = Some(now);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}

fn pause(time: Duration) {
    std::thread::sleep(time);
}
