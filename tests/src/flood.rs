// SPDX-License-Identifier: Apache-2.0
//! A flood of TCP openings (SYNs), or of packets of connections that do not exist, from random sources: a stand-in
//! for an attacker.
//!
//! A green test with it does not prove that llb stands any flood: one thread sends from 2^17 IPv4 sources, only
//! packets of one kind, all alike, as fast as one CPU can.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Host;
use crate::wait::wait_for;

/// Network of the sources. It is reserved for benchmarks (RFC 2544), so nobody has these addresses.
pub const SOURCES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Random bits of a source address: the network is a /15.
const SOURCE_BITS: u32 = 17;
/// A bound for a flood that is never stopped.
const MOST: u64 = 100_000_000;

/// With this protocol number a raw socket sends packets with the IP header that they come with (raw(7)).
const IPPROTO_RAW: i32 = 255;
/// Flags of a TCP packet that opens a connection.
const SYN: u8 = 1 << 1;
/// Flags of packets that belong to no connection.
const STRAY: [u8; 2] = [1 << 4, 1 << 4 | 1];

/// Length of an IPv4 header and of a TCP header without options.
const HEADER: usize = 20;

/// How fast the flood is: `burst` packets, then a pause of `rest`, and so on.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Packets between two pauses.
    pub burst: usize,
    /// The pause.
    pub rest: Duration,
}

impl Pace {
    /// As fast as one thread can send.
    pub const FULL: Self = Self { burst: usize::MAX, rest: Duration::ZERO };

    #[expect(clippy::disallowed_methods, reason = "not a wait: the pause sets how fast the flood is")]
    fn keep(self, number: usize) {
        if number % self.burst == self.burst - 1 {
            std::thread::sleep(self.rest);
        }
    }
}

/// A running flood. Dropping it stops it.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    /// `None` after it was joined.
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Sends openings from `host` to all `targets` in turn.
    pub fn start(host: &Host, targets: &[SocketAddrV4], seed: u64, pace: Pace) -> Self {
        Self::of(&[SYN], host, targets, seed, pace)
    }

    /// As [`Flood::start`], but no packet opens a connection: ACKs and FINs in turn.
    pub fn of_stray_packets(host: &Host, targets: &[SocketAddrV4], seed: u64, pace: Pace) -> Self {
        Self::of(&STRAY, host, targets, seed, pace)
    }

    fn of(kinds: &'static [u8], host: &Host, targets: &[SocketAddrV4], seed: u64, pace: Pace) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (host, targets) = (host.clone(), targets.to_vec());
        let (stopped, counter) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            host.enter_for_good()?;
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
            let mut random = seed | 1;
            for (number, target) in targets.iter().cycle().take(MOST as usize).enumerate() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let packet = packet(kinds[number % kinds.len()], next(&mut random), *target);
                match socket.send_to(&packet, &(*target).into()) {
                    Ok(_) => drop(counter.fetch_add(1, Ordering::Relaxed)),
                    Err(error) if is_full(&error) => {}
                    Err(error) => return Err(error.into()),
                }
                pace.keep(number);
            }
            Ok(())
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Number of packets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until `count` more packets were sent.
    ///
    /// # Errors
    /// Fewer were sent within `limit`.
    pub fn wait_for_more(&self, count: u64, limit: Duration) -> Result<()> {
        let goal = self.sent() + count;
        wait_for(limit, &format!("{count} more packets of the flood"), || self.sent() >= goal)
    }

    /// Ends it, and returns how many packets it has sent.
    ///
    /// # Errors
    /// It could not send.
    pub fn stop(mut self) -> Result<u64> {
        self.end()?;
        Ok(self.sent.load(Ordering::Relaxed))
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the flood panicked"))?
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // A test that did not stop it has failed already, with its own message.
        let _ = self.end();
    }
}

/// The link has no room for another packet, which a flood is meant to cause.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

/// Xorshift (Marsaglia, 2003): a flood needs many random numbers, not good ones.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// A TCP packet from a random source and port. The kernel fills in the length and the checksum of the IPv4 header.
fn packet(tcp_flags: u8, random: u64, target: SocketAddrV4) -> [u8; 2 * HEADER] {
    let source = Ipv4Addr::from_bits(SOURCES.to_bits() | (random as u32 & ((1 << SOURCE_BITS) - 1)));
    let mut packet = [0; 2 * HEADER];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&target.ip().octets());
    packet[20..22].copy_from_slice(&((random >> 32) as u16 | 1024).to_be_bytes());
    packet[22..24].copy_from_slice(&target.port().to_be_bytes());
    packet[24..28].copy_from_slice(&((random >> 24) as u32).to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = tcp_flags;
    packet[34..36].copy_from_slice(&u16::MAX.to_be_bytes());
    let sum = checksum(&packet);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The checksum of the TCP header and of the pseudo header before it (RFC 9293, section 3.1).
fn checksum(packet: &[u8; 2 * HEADER]) -> u16 {
    let pseudo = 6 + HEADER as u32;
    let halves =
        packet[12..].as_chunks::<2>().0.iter().map(|half| u32::from(half[0]) << 8 | u32::from(half[1]));
    let mut sum = pseudo + halves.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_has_a_valid_checksum() {
        let packet = packet(SYN, 0x1234_5678_9abc_def0, "192.0.2.100:80".parse().unwrap());
        // The sum over a header that includes the right checksum is all ones.
        assert_eq!(checksum(&packet), 0);
    }
}
