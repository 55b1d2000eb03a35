// SPDX-License-Identifier: Apache-2.0
//! An end of UDP whose datagrams leave in fragments, the last one first. Some systems send them so, and a network with
//! several paths may bring any packet to this order.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Host;
use crate::checksum::checksum;

/// With this protocol number a raw socket sends packets with the IP header that they come with (raw(7)).
const IPPROTO_RAW: i32 = 255;
const UDP: u8 = 17;
/// Bytes of payload in a fragment: a multiple of 8.
const PART: usize = 1000;
/// How often a server looks whether it must end.
const LOOK: Duration = Duration::from_millis(100);

/// One end. It receives as any socket does.
#[derive(Debug)]
pub struct Fragmenting {
    /// Receives, and holds the port.
    pub socket: UdpSocket,
    raw: Socket,
    local: SocketAddr,
    next_id: u16,
}

impl Fragmenting {
    /// An end at this address of a host.
    ///
    /// # Errors
    /// The port is taken, or this is not root.
    pub fn open(host: &Host, local: SocketAddr) -> Result<Self> {
        let domain = Domain::for_address(local);
        let open = || -> Result<_> {
            let raw = Socket::new(domain, Type::RAW.cloexec(), Some(Protocol::from(IPPROTO_RAW)))?;
            Ok((UdpSocket::bind(local)?, raw))
        };
        let (socket, raw) = host.run_inside(open)??;
        Ok(Self { socket, raw, local, next_id: 1 })
    }

    /// Sends a datagram in fragments, the last one first.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn send(&mut self, to: SocketAddr, content: &[u8]) -> Result<()> {
        let datagram = datagram(self.local, to, content);
        self.next_id += 1;
        for (n, part) in datagram.chunks(PART).enumerate().rev() {
            let is_last = (n + 1) * PART >= datagram.len();
            let packet = fragment((self.local.ip(), to.ip()), self.next_id, n * PART, is_last, part);
            self.raw.send_to(&packet, &SocketAddr::new(to.ip(), 0).into())?;
        }
        Ok(())
    }
}

/// A server that answers each datagram with the same bytes. Dropping it stops it.
#[derive(Debug)]
pub struct FragmentingEcho {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FragmentingEcho {
    /// Starts it at this address of a host.
    ///
    /// # Errors
    /// As [`Fragmenting::open`].
    pub fn start(host: &Host, local: SocketAddr) -> Result<Self> {
        let mut end = Fragmenting::open(host, local)?;
        end.socket.set_read_timeout(Some(LOOK))?;
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ends);
        let run = move || {
            let mut buffer = vec![0; 65_536];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((count, from)) = end.socket.recv_from(&mut buffer) {
                    // An answer that could not be sent is missed by its client.
                    let _ = end.send(from, &buffer[..count]);
                }
            }
        };
        Ok(Self { ends, thread: Some(std::thread::spawn(run)) })
    }
}

impl Drop for FragmentingEcho {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// UDP header and content (RFC 768).
fn datagram(from: SocketAddr, to: SocketAddr, content: &[u8]) -> Vec<u8> {
    let length = ((8 + content.len()) as u16).to_be_bytes();
    let (source, destination) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    let mut bytes = [&source[..], &destination, &length, &[0, 0], content].concat();
    let sum = checksum(
        &[octets(from.ip()), octets(to.ip()), vec![0, UDP], length.to_vec(), bytes.clone()].concat(),
    );
    // 0 would mean that there is no checksum.
    let sum = if sum == 0 { 0xffff } else { sum };
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A fragment with its IP header (RFC 791, 3.1; RFC 8200, 4.5). The kernel adds the checksum of IPv4.
fn fragment((from, to): (IpAddr, IpAddr), id: u16, offset: usize, is_last: bool, part: &[u8]) -> Vec<u8> {
    let id = id.to_be_bytes();
    let (from_v4, ends) = (from.is_ipv4(), [octets(from), octets(to)].concat());
    if from_v4 {
        let length = (20 + part.len() as u16).to_be_bytes();
        let place = ((offset as u16 / 8) | if is_last { 0 } else { 0x2000 }).to_be_bytes();
        return [&[0x45, 0], &length[..], &id, &place, &[64, UDP, 0, 0], &ends, part].concat();
    }
    let length = (8 + part.len() as u16).to_be_bytes();
    let place = (offset as u16 | u16::from(!is_last)).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[44, 64], &ends, &[UDP, 0], &place, &[0, 0], &id, part].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
