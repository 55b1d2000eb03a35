// SPDX-License-Identifier: Apache-2.0
//! Watches which boxes answer for a VIP: an ARP request each few milliseconds from a host of its own, and who answers when. Not
//! the router, whose requests would correct its own table.

#![expect(clippy::disallowed_methods, reason = "it measures by the real clock")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llb_tests::Lab;
use llb_tests::lab::{BRIDGE, open_tap};
use rustix::fs::{OFlags, fcntl_setfl};

/// Between two requests for the same VIP.
const EVERY: Duration = Duration::from_millis(10);
/// Between two looks for answers.
const LOOK: Duration = Duration::from_millis(1);

/// The watcher's link, MAC and address.
const LINK: &str = "watcher";
const MAC: [u8; 6] = [0x00, 0x00, 0x5e, 0x00, 0x53, 0xfe];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 253);

type Mac = [u8; 6];
/// For each VIP, when each MAC has answered first and last.
type Answers = BTreeMap<Ipv4Addr, BTreeMap<Mac, [Instant; 2]>>;

/// A watcher of IPv4 VIPs. Dropping it stops it.
pub(crate) struct MacWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Answers>>,
    /// So many VIPs are asked for.
    vips: usize,
}

impl MacWatch {
    /// Starts to ask.
    pub(crate) fn start(lab: &Lab, vips: &[IpAddr]) -> Self {
        let vips = vips.iter().filter_map(|vip| match vip {
            IpAddr::V4(vip) => Some(*vip),
            IpAddr::V6(_) => None,
        });
        let vips: Vec<Ipv4Addr> = vips.collect();
        let tap = lab.inside_segment(|| open_tap(LINK)).unwrap().unwrap();
        fcntl_setfl(&tap, OFlags::NONBLOCK).unwrap();
        lab.segment_ip(&format!("link set {LINK} master {BRIDGE} up\n")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let count = vips.len();
        let thread = Some(std::thread::spawn(move || watch(tap, &vips, &stopped)));
        Self { stop, thread, vips: count }
    }

    /// For how long two boxes have answered for the same VIP: of all VIPs, the longest.
    pub(crate) fn stop(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.thread.take().unwrap().join().unwrap();
        assert_eq!(answers.len(), self.vips, "not every VIP has been answered for: {answers:?}");
        let both = answers.values().filter_map(|macs| {
            let [first, second] = macs.values().collect::<Vec<_>>().try_into().ok()?;
            let (before, after) = if first[0] <= second[0] { (first, second) } else { (second, first) };
            Some(before[1].saturating_duration_since(after[0]))
        });
        both.max().unwrap_or_default()
    }
}

impl Drop for MacWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn watch(mut tap: File, vips: &[Ipv4Addr], stop: &AtomicBool) -> Answers {
    let (mut answers, mut asked) = (Answers::new(), None);
    let mut frame = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if asked.is_none_or(|asked: Instant| asked.elapsed() >= EVERY) {
            asked = Some(Instant::now());
            for vip in vips {
                // The queue of the link may be full.
                let _ = tap.write(&request(*vip));
            }
        }
        // Until nothing has come, or while the link is not up yet.
        while let Ok(length) = tap.read(&mut frame) {
            note(&mut answers, vips, &frame[..length]);
        }
        std::thread::sleep(LOOK);
    }
    answers
}

/// An ARP request: who has the VIP?
fn request(vip: Ipv4Addr) -> Vec<u8> {
    let ethernet = [&[0xff; 6][..], &MAC, &[0x08, 0x06]].concat();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MAC, &ADDRESS.octets(), &[0; 6], &vip.octets()].concat();
    [ethernet, arp].concat()
}

/// Notes an ARP reply to the watcher.
fn note(answers: &mut Answers, vips: &[Ipv4Addr], frame: &[u8]) {
    if frame.len() < 42 || frame[..6] != MAC || frame[12..14] != [0x08, 0x06] || frame[20..22] != [0, 2] {
        return;
    }
    let (Ok(mac), Ok(vip)) = (Mac::try_from(&frame[22..28]), <[u8; 4]>::try_from(&frame[28..32])) else {
        return;
    };
    let vip = Ipv4Addr::from(vip);
    if vips.contains(&vip) {
        let now = Instant::now();
        answers.entry(vip).or_default().entry(mac).or_insert([now, now])[1] = now;
    }
}
