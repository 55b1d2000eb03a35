// SPDX-License-Identifier: Apache-2.0
//! Measures for how long a VIP does not answer: a datagram each few milliseconds, and when the answers come.

#![expect(clippy::disallowed_methods, reason = "it measures by the real clock")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llb_tests::Host;
use llb_tests::wait::wait_for;

use super::boxes::UDP;
use crate::setup::LIMIT;

/// Between two datagrams.
const EVERY: Duration = Duration::from_millis(5);

/// A stream of datagrams to one VIP. Dropping it stops it.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Duration>>,
}

impl Probe {
    /// Starts to send from `host`, and waits for the first answers.
    pub(crate) fn start(host: &Host, vip: IpAddr) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = host.run_inside(|| UdpSocket::bind(any)).unwrap().unwrap();
        socket.connect(SocketAddr::new(vip, UDP.port)).unwrap();
        socket.set_read_timeout(Some(EVERY)).unwrap();
        let (stopped, counter) = (stop.clone(), answers.clone());
        let thread = std::thread::spawn(move || longest_gap(&socket, &stopped, &counter));
        let probe = Self { stop, answers, thread: Some(thread) };
        probe.wait_for_more(20);
        probe
    }

    /// Waits until so many more answers have come.
    pub(crate) fn wait_for_more(&self, count: usize) {
        let goal = self.answers.load(Ordering::Relaxed) + count;
        wait_for(LIMIT, "answers of the VIP", || self.answers.load(Ordering::Relaxed) >= goal).unwrap();
    }

    /// The longest time between two answers.
    pub(crate) fn stop(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn longest_gap(socket: &UdpSocket, stop: &AtomicBool, answers: &AtomicUsize) -> Duration {
    let (mut last, mut longest, mut buffer) = (None, Duration::ZERO, [0; 512]);
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        // A refusal of a box that is about to change is an answer that did not come.
        let _ = socket.send(b"probe");
        if socket.recv(&mut buffer).is_ok() {
            let now = Instant::now();
            longest = longest.max(last.map_or(Duration::ZERO, |last| now - last));
            last = Some(now);
            answers.fetch_add(1, Ordering::Relaxed);
            pause(EVERY.saturating_sub(sent.elapsed()));
        }
    }
    longest
}

fn pause(time: Duration) {
    std::thread::sleep(time);
}
