// SPDX-License-Identifier: Apache-2.0
//! The smallest possible servers and clients for 64-byte messages. Each socket has a blocking thread of its
//! own, so only the kernel and the balancer are measured.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use llb_tests::{Host, wait_until};
use socket2::{SockFilter, SockRef};

use crate::snmp::counter;

/// One message.
const MESSAGE: [u8; 64] = [7; 64];

/// Asks the sink for an answer. So everything on the way that keeps flows sees packets in both directions, as
/// with nearly all real UDP traffic.
const GREETING: [u8; 64] = [1; 64];

/// Classic BPF (bpf(4)) on the UDP header and content: accepts the datagram if its first byte is that of a
/// greeting, and drops it otherwise.
const ONLY_GREETINGS: [SockFilter; 4] = [
    // BPF_LD | BPF_B | BPF_ABS
    SockFilter::new(0x30, 0, 0, 8),
    // BPF_JMP | BPF_JEQ | BPF_K
    SockFilter::new(0x15, 0, 1, GREETING[0] as u32),
    // BPF_RET | BPF_K
    SockFilter::new(0x06, 0, 0, u32::MAX),
    SockFilter::new(0x06, 0, 0, 0),
];

/// Datagrams between two reads of the clock.
const UDP_BURST: usize = 64;

/// First round trips of a connection, which are not counted.
const WARM_UP: usize = 100;

/// Client sockets that send datagrams at the same time.
const UDP_CLIENTS: usize = 8;

/// Datagrams that each of them has on the way.
const UDP_WINDOW: usize = 32;

/// After this time without an answer all datagrams on the way count as lost.
const UDP_LOST_AFTER: Duration = Duration::from_millis(100);

/// Limit for a server or balancer that hangs.
const HANG: Duration = Duration::from_secs(5);

/// Serves TCP and UDP echo on one port. The threads end with this process.
///
/// Each address has a UDP socket of its own. A single one would answer from the first address of the host,
/// whichever the client had asked.
pub(crate) fn start(host: &Host, addresses: &[IpAddr], port: u16) -> Result<()> {
    let tcp = host.run_inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            std::thread::spawn(move || echo(stream));
        }
    });
    for address in addresses {
        let udp = host.run_inside(|| UdpSocket::bind((*address, port)))??;
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                // An error is an ICMP message about an earlier answer.
                if let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&buffer[..length], peer);
                }
            }
        });
    }
    Ok(())
}

/// Answers each [`GREETING`]. A filter on its sockets drops everything else: no thread is woken for it, and the
/// kernel counts it.
pub(crate) struct Sink {
    host: Host,
}

impl Sink {
    pub(crate) fn new(host: &Host) -> Self {
        Self { host: host.clone() }
    }

    /// As [`start`], for UDP only.
    pub(crate) fn start(&self, addresses: &[IpAddr], port: u16) -> Result<()> {
        for address in addresses {
            let socket = self.host.run_inside(|| UdpSocket::bind((*address, port)))??;
            SockRef::from(&socket).attach_filter(&ONLY_GREETINGS)?;
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                loop {
                    // An error is an ICMP message about an earlier answer.
                    if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&GREETING, peer);
                    }
                }
            });
        }
        Ok(())
    }

    /// Datagrams that reached the host and that the filter dropped.
    fn received(&self) -> Result<u64> {
        counter(&self.host, "Udp:", "InErrors")
    }
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

/// Sends one message after the other on one connection, each after the answer to the last. Returns the p50 and
/// p99 of the round trips in microseconds.
pub(crate) fn round_trips(client: &Host, server: SocketAddr, seconds: u32) -> Result<[f64; 2]> {
    let mut stream = client.run_inside(|| TcpStream::connect_timeout(&server, HANG))??;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANG))?;
    let mut answer = MESSAGE;
    let mut times = Vec::with_capacity(1 << 18);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds.into()) {
        let asked = Instant::now();
        stream.write_all(&MESSAGE)?;
        stream.read_exact(&mut answer)?;
        times.push(asked.elapsed());
    }
    ensure!(times.len() > 10 * WARM_UP, "only {} round trips", times.len());
    times.drain(..WARM_UP);
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    Ok([at(50), at(99)])
}

/// Answers per second to the datagrams of [`UDP_CLIENTS`] clients.
pub(crate) fn datagrams(client: &Host, server: SocketAddr, seconds: u32) -> Result<f64> {
    let span = Duration::from_secs(seconds.into());
    let answers: Result<Vec<u64>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..UDP_CLIENTS)
            .map(|_| {
                scope.spawn(move || {
                    let socket = client.run_inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
                    socket.connect(server)?;
                    count_answers(&socket, span).context("a UDP client failed")
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    Ok(answers?.iter().sum::<u64>() as f64 / span.as_secs_f64())
}

fn count_answers(socket: &UdpSocket, span: Duration) -> Result<u64> {
    socket.set_read_timeout(Some(UDP_LOST_AFTER))?;
    let mut buffer = [0; 2048];
    let mut answers = 0;
    let send_window = || (0..UDP_WINDOW).try_for_each(|_| socket.send(&MESSAGE).map(|_| ()));
    send_window()?;
    let started = Instant::now();
    while started.elapsed() < span {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                answers += 1;
                socket.send(&MESSAGE)?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => send_window()?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answers)
}

/// Datagrams per second that reach the sink while one thread sends as fast as it can, from [`UDP_CLIENTS`]
/// sockets in turn.
pub(crate) fn flood(client: &Host, server: SocketAddr, seconds: u32, sink: &Sink) -> Result<f64> {
    let sockets = (0..UDP_CLIENTS).map(|_| greet(client, server)).collect::<Result<Vec<_>>>()?;
    let span = Duration::from_secs(seconds.into());
    let (before, started) = (sink.received()?, Instant::now());
    while started.elapsed() < span {
        for socket in &sockets {
            for _ in 0..UDP_BURST / UDP_CLIENTS {
                match socket.send(&MESSAGE) {
                    Ok(_) => {}
                    // This error means that a queue on the way is full.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    let rate = (sink.received()? - before) as f64 / started.elapsed().as_secs_f64();
    // Datagrams that are still on the way must not count for the next measurement.
    let mut last = sink.received()?;
    wait_until(HANG, "the sink to come to rest", || {
        let now = sink.received()?;
        Ok((std::mem::replace(&mut last, now) == now).then_some(()))
    })?;
    Ok(rate)
}

/// A socket that has exchanged a greeting with the sink at `server`.
pub(crate) fn greet(client: &Host, server: SocketAddr) -> Result<UdpSocket> {
    let socket = client.run_inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.connect(server)?;
    socket.set_read_timeout(Some(UDP_LOST_AFTER))?;
    let mut answer = GREETING;
    wait_until(HANG, "an answer to a greeting", || {
        socket.send(&GREETING)?;
        Ok(Some(socket.recv(&mut answer)?))
    })?;
    Ok(socket)
}
