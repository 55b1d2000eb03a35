//! The smallest servers and clients for 64-byte messages: one blocking thread
//! for each socket, so that nothing but the kernel and the balancer is measured.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use llb_tests::Host;

/// One message.
const MESSAGE: [u8; 64] = [7; 64];

/// Round trips that are not counted: the connection's first ones.
const WARM_UP: usize = 100;

/// Client addresses that send datagrams at once.
const UDP_CLIENTS: usize = 8;

/// Datagrams that each of them has on the way.
const UDP_WINDOW: usize = 32;

/// After so long without an answer the whole window counts as lost.
const UDP_LOST_AFTER: Duration = Duration::from_millis(100);

/// For a server or balancer that hangs.
const HANG: Duration = Duration::from_secs(5);

/// TCP and UDP echo on one port; their threads end with this process.
pub(crate) struct Servers;

impl Servers {
    pub(crate) fn start(host: &Host, port: u16) -> Result<Self> {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let sockets = host.run_inside(|| (TcpListener::bind(any), UdpSocket::bind(any)))?;
        let (tcp, udp) = (sockets.0?, sockets.1?);
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                std::thread::spawn(move || echo(stream));
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                // An error is an ICMP message about an earlier answer.
                if let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&buffer[..length], peer);
                }
            }
        });
        Ok(Self)
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

/// Asks and waits for the answer on one connection; p50 and p99 in microseconds.
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

/// Answers per second to datagrams of [`UDP_CLIENTS`] clients.
pub(crate) fn datagrams(client: &Host, server: SocketAddr, seconds: u32) -> Result<f64> {
    let span = Duration::from_secs(seconds.into());
    let answers: Result<Vec<u64>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..UDP_CLIENTS)
            .map(|_| {
                scope.spawn(move || {
                    let socket = client.run_inside(|| UdpSocket::bind((client.ipv4(), 0)))??;
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
