// SPDX-License-Identifier: Apache-2.0
//! Questions over UDP, each from another client address and port, as resolvers send them, and servers whose
//! answers are sometimes late. Each question has a number and the client that asked it, and the answer has
//! the same. So an answer that reaches another client is noticed.
//!
//! ```text
//!   Questions: one thread asks, with raw sockets, from 2^17 addresses    -->  balancer  -->  Answers: one thread
//!              one thread reads the answers to all these addresses       <--            <--  answers at once, one late
//! ```

#![expect(clippy::disallowed_methods, reason = "the load has a rate, and answers are late on purpose")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Host;
use crate::flood::SOURCES;

/// Random bits of a source address: the network of [`SOURCES`] is a /15.
const SOURCE_BITS: u32 = 17;
/// Ports of each source address.
const SOURCE_PORTS: std::ops::Range<u16> = 20_000..20_032;
/// No client asks twice.
const MOST: u64 = (1 << SOURCE_BITS) * 32;

/// With this protocol number a raw socket sends packets with the IP header that they come with (raw(7)).
const IPPROTO_RAW: i32 = 255;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Number, address and port.
const CONTENT: usize = 14;

/// Enough for a moment in which the reading thread does not run.
const BUFFER_BYTES: usize = 16 << 20;
/// How often a thread looks whether it must end.
const LOOK: Duration = Duration::from_millis(100);
/// How often questions and late answers are sent.
const PULSE: Duration = Duration::from_millis(1);

/// What became of the questions so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Questions that were asked.
    pub asked: u64,
    /// Questions whose answer has reached their client.
    pub answered: u64,
    /// Answers that reached another client, or came from another address.
    pub wrong: u64,
}

/// A running load of questions. Dropping it stops it.
#[derive(Debug)]
pub struct Questions {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    asks: AtomicBool,
    reads: AtomicBool,
    asked: AtomicU64,
    answered: AtomicU64,
    wrong: AtomicU64,
    /// A bit for each question that was answered.
    done: Vec<AtomicU64>,
}

impl Questions {
    /// Makes `host` the owner of all the addresses from which questions come.
    ///
    /// # Errors
    /// A command failed.
    pub fn prepare(host: &Host) -> Result<()> {
        host.ip(&format!("route add local {SOURCES}/15 dev lo"))
    }

    /// Asks `server` this many questions a second from `host`, which is prepared.
    ///
    /// # Errors
    /// A socket can't be opened.
    pub fn start(host: &Host, server: SocketAddrV4, per_second: u32) -> Result<Self> {
        let shared = Arc::new(Shared {
            asks: AtomicBool::new(true),
            reads: AtomicBool::new(true),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            done: (0..MOST / 64).map(|_| AtomicU64::new(0)).collect(),
        });
        let (asks, reads, holders) = host.run_inside(sockets)??;
        let (asking, reading) = (shared.clone(), shared.clone());
        let threads = vec![
            std::thread::spawn(move || ask(&asking, &asks, server, per_second)),
            std::thread::spawn(move || {
                // While these are open, the kernel does not refuse the answers.
                let _holders = holders;
                read(&reading, &reads, server)
            }),
        ];
        Ok(Self { shared, threads })
    }

    /// What became of the questions so far.
    pub fn outcome(&self) -> Outcome {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // In this order, so that no more are answered than asked.
        let (answered, wrong) = (number(&self.shared.answered), number(&self.shared.wrong));
        Outcome { asked: number(&self.shared.asked), answered, wrong }
    }

    /// Asks no more; answers are still read.
    pub fn pause(&self) {
        self.shared.asks.store(false, Ordering::Relaxed);
    }

    /// Ends it.
    ///
    /// # Errors
    /// It could not send or receive.
    pub fn stop(mut self) -> Result<Outcome> {
        self.end()?;
        Ok(self.outcome())
    }

    fn end(&mut self) -> Result<()> {
        self.pause();
        self.shared.reads.store(false, Ordering::Relaxed);
        self.threads.drain(..).try_for_each(join)
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        // A test that did not stop it has failed already, with its own message.
        let _ = self.end();
    }
}

/// A socket that sends, one that gets all answers, and one for each port of the clients.
fn sockets() -> Result<(Socket, Socket, Vec<UdpSocket>)> {
    let asks = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
    let reads = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(reads.as_fd(), BUFFER_BYTES)?;
    reads.set_read_timeout(Some(LOOK))?;
    let holders = SOURCE_PORTS.map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    Ok((asks, reads, holders.collect::<std::io::Result<_>>()?))
}

fn ask(shared: &Shared, socket: &Socket, server: SocketAddrV4, per_second: u32) -> Result<()> {
    let started = Instant::now();
    let mut asked = 0;
    while shared.asks.load(Ordering::Relaxed) && asked < MOST {
        let due = (started.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        while asked < due.min(MOST) {
            match socket.send_to(&question(asked, server), &server.into()) {
                Ok(_) => {}
                Err(error) if is_full(&error) => break,
                Err(error) => return Err(error).context("cannot ask"),
            }
            asked += 1;
            shared.asked.store(asked, Ordering::Relaxed);
        }
        std::thread::sleep(PULSE);
    }
    Ok(())
}

/// The link has no room for another packet.
fn is_full(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

/// The client that asks the question with this number.
fn client(number: u64) -> SocketAddrV4 {
    let (low, high) = (number & ((1 << SOURCE_BITS) - 1), number >> SOURCE_BITS);
    // An odd factor only changes the order.
    let mixed = low.wrapping_mul(0x9e37_79b1) & ((1 << SOURCE_BITS) - 1);
    let address = Ipv4Addr::from_bits(SOURCES.to_bits() | mixed as u32);
    SocketAddrV4::new(address, SOURCE_PORTS.start + high as u16 % SOURCE_PORTS.len() as u16)
}

fn content(number: u64) -> [u8; CONTENT] {
    let client = client(number);
    let mut content = [0; CONTENT];
    content[..8].copy_from_slice(&number.to_be_bytes());
    content[8..12].copy_from_slice(&client.ip().octets());
    content[12..].copy_from_slice(&client.port().to_be_bytes());
    content
}

/// A UDP packet without a checksum. The kernel fills in the length and the checksum of the IPv4 header.
fn question(number: u64, server: SocketAddrV4) -> [u8; IP_HEADER + UDP_HEADER + CONTENT] {
    let client = client(number);
    let mut packet = [0; IP_HEADER + UDP_HEADER + CONTENT];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&client.ip().octets());
    packet[16..20].copy_from_slice(&server.ip().octets());
    packet[20..22].copy_from_slice(&client.port().to_be_bytes());
    packet[22..24].copy_from_slice(&server.port().to_be_bytes());
    packet[24..26].copy_from_slice(&((UDP_HEADER + CONTENT) as u16).to_be_bytes());
    packet[28..].copy_from_slice(&content(number));
    packet
}

fn read(shared: &Shared, socket: &Socket, server: SocketAddrV4) -> Result<()> {
    use std::io::Read as _;
    let mut buffer = [0; 2048];
    let mut socket = socket;
    while shared.reads.load(Ordering::Relaxed) {
        match socket.read(&mut buffer) {
            Ok(length) => judge(shared, &buffer[..length], server),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("cannot read answers"),
        }
    }
    Ok(())
}

/// Counts an answer. Other packets to the host are none.
fn judge(shared: &Shared, packet: &[u8], server: SocketAddrV4) {
    let Some(udp) = packet.get(IP_HEADER..).filter(|udp| udp.len() == UDP_HEADER + CONTENT) else { return };
    let number = u64::from_be_bytes(udp[8..16].try_into().unwrap_or_default());
    let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let (from, to) = (SocketAddrV4::new(address(12), port(0)), SocketAddrV4::new(address(16), port(2)));
    if number >= MOST || from != server || to != client(number) || udp[8..] != content(number) {
        shared.wrong.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let bit = 1 << (number % 64);
    if shared.done[(number / 64) as usize].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// How late answers are: one in `one_in` by a random time up to `most`.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// One answer in this many is late.
    pub one_in: u64,
    /// The longest delay.
    pub most: Duration,
}

/// A running server that answers each question with the same bytes. Dropping it stops it.
#[derive(Debug)]
pub struct Answers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// Answers that are not sent yet, with the time at which they are.
type Waiting = Mutex<BinaryHeap<Reverse<(Instant, SocketAddr, Vec<u8>)>>>;

impl Answers {
    /// Listens at `address` of `host`.
    ///
    /// # Errors
    /// The address is in use.
    pub fn start(host: &Host, address: SocketAddr, late: Late) -> Result<Self> {
        let socket = Arc::new(host.run_inside(|| UdpSocket::bind(address))??);
        rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), BUFFER_BYTES)?;
        socket.set_read_timeout(Some(LOOK))?;
        let (stop, waiting) = (Arc::new(AtomicBool::new(false)), Arc::new(Waiting::default()));
        let (receiving, sending) =
            ((stop.clone(), socket.clone(), waiting.clone()), (stop.clone(), socket, waiting));
        let threads = vec![
            std::thread::spawn(move || receive(&receiving.0, &receiving.1, &receiving.2, late)),
            std::thread::spawn(move || send_late(&sending.0, &sending.1, &sending.2)),
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its questions stay without answers, which the test has noticed.
            let _ = join(thread);
        }
    }
}

fn receive(stop: &AtomicBool, socket: &UdpSocket, waiting: &Waiting, late: Late) -> Result<()> {
    let mut buffer = [0; 2048];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    while !stop.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                continue;
            }
            Err(error) => return Err(error).context("cannot receive questions"),
        };
        // Xorshift (Marsaglia, 2003).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if random.is_multiple_of(late.one_in) {
            let due = Instant::now() + late.most.mul_f64((random >> 32) as f64 / f64::from(u32::MAX));
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Reverse((due, from, buffer[..length].to_vec())));
        } else {
            // A full queue loses an answer, as networks do.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
    Ok(())
}

fn send_late(stop: &AtomicBool, socket: &UdpSocket, waiting: &Waiting) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.peek().is_some_and(|Reverse((due, ..))| *due <= Instant::now()) {
            if let Some(Reverse((_, to, answer))) = waiting.pop() {
                let _ = socket.send_to(&answer, to);
            }
        }
        drop(waiting);
        std::thread::sleep(PULSE);
    }
    Ok(())
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_client_asks_twice() {
        let step = 1 << 10;
        let some = (0..MOST).step_by(step).map(client).collect::<HashSet<_>>();
        assert_eq!(some.len() as u64, MOST / step as u64);
    }
}
