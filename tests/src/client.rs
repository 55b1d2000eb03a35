// SPDX-License-Identifier: Apache-2.0
//! The client side of a test's traffic: single requests, and a load that continues while something else
//! happens. The test decides how many failures are acceptable.

#![expect(clippy::disallowed_methods, reason = "tests wait and measure by the real clock")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Host;
use crate::server::download_path;
use crate::wait::wait_for;

/// Limit of every read and write: there is no loss on one machine, but it may be busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A lost datagram is sent again, as any UDP client does.
const DATAGRAM_TRIES: usize = 5;

/// How long one try waits for its answer.
const DATAGRAM_LIMIT: Duration = Duration::from_secs(1);

/// What a [`Server`](crate::Server) answered: its name, and the client as it saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The client's address as the server saw it.
    pub peer: SocketAddr,
    /// UDP only: the content of the datagram that it got.
    pub content: String,
}

/// A TCP connection from `host`, with limits on every read and write.
///
/// # Errors
/// Refused, unreachable, or not connected within 5 s.
pub fn connect(host: &Host, address: SocketAddr) -> Result<TcpStream> {
    let stream = host
        .run_inside(|| TcpStream::connect_timeout(&address, ANSWER_LIMIT))?
        .with_context(|| format!("{} cannot connect to {address}", host.name()))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    Ok(stream)
}

/// One HTTP request on a connection of its own.
///
/// # Errors
/// No connection, no complete answer, or another status than 200.
pub fn http_get(host: &Host, address: SocketAddr) -> Result<Answer> {
    let mut stream = connect(host, address)?;
    http_get_on(&mut stream, address)
}

/// Sends `content` and reads it back, which proves that the connection works.
///
/// # Errors
/// The echo does not come, or differs from what was sent.
pub fn echo_on(stream: &mut TcpStream, content: &[u8]) -> Result<()> {
    stream.write_all(content)?;
    let mut answer = vec![0; content.len()];
    stream.read_exact(&mut answer).context("no echo")?;
    ensure!(answer == content, "the echo differs from what was sent");
    Ok(())
}

/// Sends all of `content` while reading, closes its own direction, and reads to the end.
///
/// # Errors
/// The transfer broke off.
pub fn echo_all(mut stream: TcpStream, content: Vec<u8>) -> Result<Vec<u8>> {
    let mut writer = stream.try_clone()?;
    let writing = std::thread::spawn(move || {
        writer.write_all(&content)?;
        writer.shutdown(Shutdown::Write)
    });
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    writing.join().map_err(|_| anyhow!("the writing thread panicked"))?.context("cannot write")?;
    read.with_context(|| format!("cannot read after {} bytes", answer.len()))?;
    Ok(answer)
}

/// Sends one datagram from a new socket, again if no answer comes.
///
/// # Errors
/// No answer to any try; the error holds the last reason (for example "port unreachable").
pub fn udp_ask(host: &Host, address: SocketAddr, content: &str) -> Result<Answer> {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = host.run_inside(|| UdpSocket::bind(local))??;
    socket.connect(address).with_context(|| format!("no route to {address}"))?;
    socket.set_read_timeout(Some(DATAGRAM_LIMIT))?;
    udp_ask_on(&socket, content)
}

/// As [`udp_ask`], on a connected socket with a read time-out.
///
/// # Errors
/// As [`udp_ask`].
pub fn udp_ask_on(socket: &UdpSocket, content: &str) -> Result<Answer> {
    let mut buffer = vec![0; 65_536];
    let mut last = anyhow!("not tried");
    for _ in 0..DATAGRAM_TRIES {
        match socket.send(content.as_bytes()).and_then(|_| socket.recv(&mut buffer)) {
            Ok(count) => return parse_answer(&String::from_utf8_lossy(&buffer[..count])),
            Err(error) => last = error.into(),
        }
    }
    Err(last.context(format!("{DATAGRAM_TRIES} datagrams without an answer")))
}

/// One ICMP echo request from `host`, and its answer.
///
/// # Errors
/// No answer within 5 s.
pub fn ping(host: &Host, address: IpAddr) -> Result<()> {
    const CONTENT: &[u8] = b"\0\x01 are you there";
    let (domain, protocol, request, reply) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = host.run_inside(|| Socket::new(domain, Type::RAW, Some(protocol)))??;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    let mut packet = [&[request, 0, 0, 0, b'l', b'l'], CONTENT].concat();
    // For ICMPv6 the kernel computes the checksum itself (RFC 3542, section 3.1).
    let mut sum: u32 = packet.chunks(2).map(|half| u32::from(half[0]) << 8 | u32::from(half[1])).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    socket.send(&packet)?;
    let mut buffer = [0; 1500];
    let started = Instant::now();
    while started.elapsed() < ANSWER_LIMIT {
        let count = (&socket).read(&mut buffer).with_context(|| format!("{address} does not answer"))?;
        let header = if address.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let answer = buffer.get(header..count).unwrap_or_default();
        if answer.first() == Some(&reply) && answer.get(4..) == packet.get(4..) {
            return Ok(());
        }
    }
    bail!("{address} sent only other messages")
}

/// How many of `count` requests each server answered, by name.
///
/// # Errors
/// One of the requests failed.
pub fn count_by_name(
    count: usize,
    mut ask: impl FnMut() -> Result<Answer>,
) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        *counts.entry(ask()?.name).or_default() += 1;
    }
    Ok(counts)
}

/// A long answer of an HTTP [`Server`](crate::Server), which a test reads in parts.
#[derive(Debug)]
pub struct Download {
    stream: TcpStream,
    read: u64,
    length: u64,
}

impl Download {
    /// More than all buffers between server and client hold together, so that the server cannot finish before
    /// the client reads.
    pub const LENGTH: u64 = 64 << 20;

    /// Sends the request and reads the head of the answer.
    ///
    /// # Errors
    /// No connection, or an answer whose status is not 200.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let mut stream = connect(host, address)?;
        let path = download_path(Self::LENGTH);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).context("the head of the answer is incomplete")?;
            head.extend(byte);
        }
        ensure!(head.starts_with(b"HTTP/1.1 200 "), "answered: {}", String::from_utf8_lossy(&head));
        Ok(Self { stream, read: 0, length: Self::LENGTH })
    }

    /// Reads `count` more bytes.
    ///
    /// # Errors
    /// The bytes do not come, or differ from what was asked for.
    pub fn read(&mut self, count: u64) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let goal = self.length.min(self.read + count);
        while self.read < goal {
            let most = usize::try_from(goal - self.read).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = self.stream.read(&mut buffer[..most]);
            let count = count.with_context(|| format!("broke off after {} bytes", self.read))?;
            ensure!(count > 0, "ended after {} of {} bytes", self.read, self.length);
            ensure!(buffer[..count].iter().all(|&byte| byte == 0), "wrong byte near {}", self.read);
            self.read += count as u64;
        }
        Ok(())
    }

    /// Reads to the end, and checks that it comes after the promised length.
    ///
    /// # Errors
    /// As [`Download::read`], or more bytes follow.
    pub fn finish(mut self) -> Result<()> {
        self.read(self.length)?;
        let mut more = Vec::new();
        self.stream.read_to_end(&mut more).context("the connection did not end in order")?;
        ensure!(more.is_empty(), "{} bytes too many", more.len());
        Ok(())
    }
}

/// HTTP requests one after another, each on its own connection, until stopped. Dropping it stops it.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    /// `None` after it was joined.
    thread: Option<JoinHandle<Result<Tally>>>,
}

/// The outcome of the requests of a [`Load`].
#[derive(Debug, Default)]
pub struct Tally {
    /// Number of answers by the server's name.
    pub answers: BTreeMap<String, usize>,
    /// The error of every failed request.
    pub failures: Vec<String>,
}

impl Tally {
    /// The number of all requests.
    pub fn total(&self) -> usize {
        self.answers.values().sum::<usize>() + self.failures.len()
    }
}

impl Load {
    /// Starts to send requests at once, each as soon as the one before has ended.
    pub fn start(host: &Host, address: SocketAddr) -> Self {
        Self::paced(host, address, Duration::ZERO)
    }

    /// Like [`Load::start`], with this pause after each request. A load that lasts for a minute or more needs one:
    /// otherwise it uses each port of the client again and again.
    pub fn paced(host: &Host, address: SocketAddr, pause: Duration) -> Self {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (host, stopped, counter) = (host.clone(), stop.clone(), requests.clone());
        let thread = std::thread::spawn(move || {
            host.enter_for_good()?;
            let mut tally = Tally::default();
            while !stopped.load(Ordering::Relaxed) {
                match request(address) {
                    Ok(answer) => *tally.answers.entry(answer.name).or_default() += 1,
                    Err(error) => tally.failures.push(format!("{error:#}")),
                }
                counter.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
            Ok(tally)
        });
        Self { stop, requests, thread: Some(thread) }
    }

    /// Waits until `count` more requests have ended.
    ///
    /// # Errors
    /// Fewer requests ended within `limit`.
    pub fn wait_for_more(&self, count: usize, limit: Duration) -> Result<()> {
        let goal = self.requests.load(Ordering::Relaxed) + count;
        wait_for(limit, &format!("{count} more requests"), || self.requests.load(Ordering::Relaxed) >= goal)
    }

    /// Waits for the request under way, and returns the outcome of all.
    ///
    /// # Errors
    /// The namespace could not be entered.
    pub fn stop(mut self) -> Result<Tally> {
        self.end()
    }

    fn end(&mut self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(Tally::default()) };
        thread.join().map_err(|_| anyhow!("the requesting thread panicked"))?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that did not stop it has failed already, with its own message.
        let _ = self.end();
    }
}

/// One request from the namespace of the calling thread.
fn request(address: SocketAddr) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT).context("cannot connect")?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    http_get_on(&mut stream, address)
}

/// Asks on an open connection, which the answer ends.
///
/// # Errors
/// No answer, or another one than the lab's HTTP servers give.
pub fn http_get_on(stream: &mut TcpStream, address: SocketAddr) -> Result<Answer> {
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response).with_context(|| format!("no answer from {address}"))?;
    let Some((head, body)) = response.split_once("\r\n\r\n") else {
        bail!("{address} closed after {} bytes: {response:?}", response.len())
    };
    ensure!(head.starts_with("HTTP/1.1 200 "), "{address} answered: {head}");
    parse_answer(body)
}

/// `<name> <peer address>`; for UDP followed by a space and the content.
fn parse_answer(text: &str) -> Result<Answer> {
    let mut parts = text.trim_end_matches('\n').splitn(3, ' ');
    let (Some(name), Some(peer)) = (parts.next(), parts.next()) else {
        bail!("not an answer of a lab's server: {text:?}")
    };
    let content = parts.next().unwrap_or_default().to_owned();
    Ok(Answer { name: name.to_owned(), peer: peer.parse()?, content })
}
