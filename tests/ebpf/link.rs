// SPDX-License-Identifier: Apache-2.0
//! The programs on a real link of a lab: frames from another host are counted and arrive.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::tc::TcAttachType;
use aya::programs::{SchedClassifier, Xdp, XdpMode};
use llb_agent::config::{Datapath, PacketConfig};
use llb_agent::dataplane::packet::{
    LinkLocks, LinkPermission, PacketError, PacketPlane, PacketSetup, Turn, detach,
};
use llb_agent::model::LinkCount;
use llb_common::counters::{LINK_COUNTERS_MAP, LinkCounters};
use llb_common::programs::{TC_INGRESS_PROGRAM, XDP_PROGRAM};
use llb_tests::wait::wait_for;
use llb_tests::{Host, Lab};

use crate::{PrivateBpffs, object};

/// On a veth pair, a frame that takes longer will not come; the same holds for the kernel's clean-up.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// UDP packets that one exchange sends. Each gets an answer.
pub(crate) const PACKETS: u64 = 20;

/// Ethernet, IPv4 and UDP headers, and four bytes of data.
const FRAME_BYTES: u64 = 14 + 20 + 8 + 4;

/// How often the program is replaced while packets arrive.
const REPLACEMENTS: usize = 5;

/// Frames of neighbour and multicast discovery that may be counted too. They are fewer than [`PACKETS`], so the
/// test would notice packets that are counted twice.
const OTHER_FRAMES: u64 = PACKETS - 5;

const PORT: u16 = 5300;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn counters_grow_with_traffic_and_continue_after_the_agent_was_killed() {
    let (lab, bpffs) = (two_hosts().unwrap(), PrivateBpffs::mount().unwrap());
    let observer = attach(lab.balancer(), &bpffs.bpf_dir()).unwrap();
    let before = counters(&observer);
    exchange(&lab).unwrap();
    let after = counters(&observer);
    assert_grown(before, after, PACKETS);

    // Dropped without detaching, as when the agent is killed: the program stays.
    drop(observer);
    assert_eq!(programs_at(lab.balancer()).len(), 1);
    exchange(&lab).unwrap();

    let first = programs_at(lab.balancer());
    let observer = attach(lab.balancer(), &bpffs.bpf_dir()).unwrap();
    assert_grown(after, counters(&observer), PACKETS);
    let second = programs_at(lab.balancer());
    assert!(second.len() == 1 && second != first, "replaced, not added: {first:?} -> {second:?}");
    let before = counters(&observer);
    exchange(&lab).unwrap();
    assert_grown(before, counters(&observer), PACKETS);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn replacing_the_program_under_traffic_loses_no_packet_and_no_count() {
    let (lab, bpffs) = (two_hosts().unwrap(), PrivateBpffs::mount().unwrap());
    let first = attach(lab.balancer(), &bpffs.bpf_dir()).unwrap();
    let before = counters(&first);
    drop(first);
    let replaced = AtomicBool::new(false);
    let (last, exchanges) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut exchanges = 0;
            while exchanges == 0 || !replaced.load(Ordering::Relaxed) {
                // A lost packet makes the exchange fail.
                exchange(&lab).unwrap();
                exchanges += 1;
            }
            exchanges
        });
        let mut observer = None;
        for _ in 0..REPLACEMENTS {
            drop(observer.take());
            observer = Some(attach(lab.balancer(), &bpffs.bpf_dir()).unwrap());
        }
        replaced.store(true, Ordering::Relaxed);
        (observer.unwrap(), traffic.join().unwrap())
    });
    assert_grown(before, counters(&last), exchanges * PACKETS);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn detach_leaves_no_program_and_no_pin_and_can_be_repeated() {
    let (lab, bpffs) = (two_hosts().unwrap(), PrivateBpffs::mount().unwrap());
    let observer = attach(lab.balancer(), &bpffs.bpf_dir()).unwrap();

    let busy = detach(&bpffs.bpf_dir()).unwrap_err();
    assert!(matches!(busy, PacketError::Busy { .. }), "{busy}");
    assert_eq!(programs_at(lab.balancer()).len(), 1);

    drop(observer);
    assert_eq!(detach(&bpffs.bpf_dir()).unwrap(), [Host::LINK]);
    wait_for(LIMIT, "the program to go", || programs_at(lab.balancer()).is_empty()).unwrap();
    assert!(!bpffs.bpf_dir().exists());
    assert_eq!(detach(&bpffs.bpf_dir()).unwrap(), [""; 0]);
    exchange(&lab).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_second_agent_on_the_link_is_refused() {
    let (lab, bpffs) = (two_hosts().unwrap(), PrivateBpffs::mount().unwrap());
    let observer = attach(lab.balancer(), &bpffs.bpf_dir()).unwrap();
    let error = attach(lab.balancer(), &bpffs.bpf_dir()).err().unwrap();
    assert!(matches!(&error, PacketError::Busy { link, .. } if link == Host::LINK), "{error}");
    let before = counters(&observer);
    exchange(&lab).unwrap();
    assert_grown(before, counters(&observer), PACKETS);

    // An agent to which the lock was handed over takes over; the link stays held meanwhile.
    let successor = attach_with(lab.balancer(), &bpffs.bpf_dir(), observer.locks().unwrap()).unwrap();
    drop(observer);
    assert!(matches!(attach(lab.balancer(), &bpffs.bpf_dir()), Err(PacketError::Busy { .. })));
    exchange(&lab).unwrap();
    assert_grown(before, counters(&successor), 2 * PACKETS);
    assert_eq!(programs_at(lab.balancer()).len(), 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn pins_of_a_link_that_was_created_again_are_replaced() {
    let (lab, bpffs) = (two_hosts().unwrap(), PrivateBpffs::mount().unwrap());
    let host = lab.balancer();
    let add = "link add eth0.7 type veth peer name other7\nlink set eth0.7 up\n";
    let attach = || open(host, &["eth0.7"], &bpffs.bpf_dir(), LinkLocks::new());
    host.ip(add).unwrap();
    drop(attach().unwrap());
    host.ip(&format!("link delete eth0.7\n{add}")).unwrap();
    drop(attach().unwrap());
    assert_eq!(programs_at_link(host, c"eth0.7").len(), 1);

    // A renamed link keeps its program, and another link may get its old name.
    host.ip(&format!("link set eth0.7 down\nlink set eth0.7 name old\nlink delete old\n{add}")).unwrap();
    host.ip("link add moved type veth peer name moved-peer\n").unwrap();
    drop(attach().unwrap());
    host.ip("link set eth0.7 down\nlink set eth0.7 name was-seven\nlink set moved name eth0.7\n").unwrap();
    drop(attach().unwrap());
    assert_eq!(programs_at_link(host, c"eth0.7").len(), 1);
    wait_for(LIMIT, "the old link to be left", || programs_at_link(host, c"was-seven").is_empty()).unwrap();
    assert_eq!(detach(&bpffs.bpf_dir()).unwrap(), ["eth0.7"]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_missing_link_is_named_and_no_other_is_observed() {
    let (lab, bpffs) = (two_hosts().unwrap(), PrivateBpffs::mount().unwrap());
    let links = [Host::LINK, "nothere0"];
    let error = open(lab.balancer(), &links, &bpffs.bpf_dir(), LinkLocks::new()).err().unwrap();
    assert!(matches!(&error, PacketError::NoSuchLink { link } if link == "nothere0"), "{error}");
    wait_for(LIMIT, "the program to go", || programs_at(lab.balancer()).is_empty()).unwrap();
    assert_eq!(detach(&bpffs.bpf_dir()).unwrap(), [""; 0]);
}

/// The agent does not use this program here; the test shows that XDP counts on a link and passes all frames.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn xdp_counts_and_passes_frames_on_a_link() {
    let lab = two_hosts().unwrap();
    let mut ebpf = Ebpf::load(&object().unwrap()).unwrap();
    inside(lab.balancer(), || {
        let program: &mut Xdp = ebpf.program_mut(XDP_PROGRAM).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(c"eth0", XdpMode::default()).unwrap();
    });
    exchange(&lab).unwrap();
    let map: PerCpuArray<&MapData, [u64; 2]> = ebpf.map(LINK_COUNTERS_MAP).unwrap().try_into().unwrap();
    let packets: u64 = map.get(&0, 0).unwrap().iter().map(|[packets, _]| packets).sum();
    assert!(packets >= PACKETS, "{packets}");
}

pub(crate) fn two_hosts() -> Result<Lab> {
    let mut lab = Lab::empty()?;
    lab.add_host("balancer")?;
    lab.add_host("client")?;
    Ok(lab)
}

/// A plane, and the runtime of its task.
pub(crate) struct Open {
    plane: Option<PacketPlane>,
    runtime: tokio::runtime::Runtime,
}

impl std::ops::Deref for Open {
    type Target = PacketPlane;

    fn deref(&self) -> &PacketPlane {
        self.plane.as_ref().unwrap()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.plane.take());
    }
}

fn open(host: &Host, links: &[&str], bpf_dir: &Path, locks: LinkLocks) -> Result<Open, PacketError> {
    open_with(host, links, bpf_dir, locks, PacketConfig::default())
}

pub(crate) fn open_with(
    host: &Host,
    links: &[&str],
    bpf_dir: &Path,
    locks: LinkLocks,
    config: PacketConfig,
) -> Result<Open, PacketError> {
    let setup = PacketSetup {
        links: links.iter().map(|&link| link.to_owned()).collect(),
        bpf_dir: bpf_dir.to_owned(),
        datapath: Datapath::Tc,
        config,
        drain_timeout: LIMIT,
        permission: LinkPermission::new(|_| true),
        turn: Turn::default(),
    };
    inside(host, || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let plane = runtime.block_on(PacketPlane::open(setup, locks, Arc::default()))?;
        Ok(Open { plane: Some(plane), runtime })
    })
}

fn attach(host: &Host, bpf_dir: &Path) -> Result<Open, PacketError> {
    attach_with(host, bpf_dir, LinkLocks::new())
}

fn attach_with(host: &Host, bpf_dir: &Path, locks: LinkLocks) -> Result<Open, PacketError> {
    open(host, &[Host::LINK], bpf_dir, locks)
}

pub(crate) fn inside<T: Send>(host: &Host, work: impl FnOnce() -> T + Send) -> T {
    host.run_inside(work).unwrap()
}

pub(crate) fn counters(observer: &PacketPlane) -> LinkCounters {
    match observer.counting()().unwrap().links.as_slice() {
        [LinkCount { link, packets, bytes }] if link == Host::LINK => {
            LinkCounters { packets: *packets, bytes: *bytes }
        }
        other => panic!("one link is observed, not {other:?}"),
    }
}

pub(crate) fn assert_grown(before: LinkCounters, after: LinkCounters, packets: u64) {
    let grown = after.packets - before.packets;
    assert!((packets..=packets + OTHER_FRAMES).contains(&grown), "{packets} packets sent, {grown} counted");
    let bytes = after.bytes - before.bytes;
    assert!(bytes >= packets * FRAME_BYTES, "{packets} packets sent, {bytes} bytes counted");
}

/// Sends [`PACKETS`] packets from the client to the balancer. Each must arrive, and each answer too.
pub(crate) fn exchange(lab: &Lab) -> Result<()> {
    let (balancer, client) = (lab.balancer(), lab.client());
    let server = balancer.run_inside(|| UdpSocket::bind(balancer.at(PORT)))??;
    let socket = client.run_inside(|| UdpSocket::bind(client.at(0)))??;
    for socket in [&server, &socket] {
        socket.set_read_timeout(Some(LIMIT))?;
    }
    let mut buffer = [0; 16];
    for number in 0..PACKETS as u32 {
        socket.send_to(&number.to_be_bytes(), balancer.at(PORT))?;
        let (length, from) = server.recv_from(&mut buffer).context("the balancer got no packet")?;
        server.send_to(&buffer[..length], from)?;
        let length = socket.recv(&mut buffer).context("the client got no answer")?;
        anyhow::ensure!(buffer[..length] == number.to_be_bytes(), "the packet was changed");
    }
    Ok(())
}

/// Ids of llb's programs at the TC ingress hook of the host's link.
pub(crate) fn programs_at(host: &Host) -> Vec<u32> {
    programs_at_link(host, c"eth0")
}

fn programs_at_link(host: &Host, link: &std::ffi::CStr) -> Vec<u32> {
    let query = || SchedClassifier::query_tcx(link, TcAttachType::Ingress).unwrap().1;
    let programs = inside(host, query);
    // The kernel keeps only 15 characters of a name.
    let ours = |name: Option<&str>| name.is_some_and(|name| TC_INGRESS_PROGRAM.starts_with(name));
    programs.iter().filter(|program| ours(program.name_as_str())).map(|program| program.id()).collect()
}
