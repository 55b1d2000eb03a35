// SPDX-License-Identifier: Apache-2.0
//! Servers and clients for the comparison of ways to move bytes (`ways.rs`). Few threads serve many
//! connections, so that with a thousand of them the scheduler is not what is measured.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use llb_tests::Host;

/// Limit for a server or agent that hangs.
const HANG: Duration = Duration::from_secs(20);

/// Round trips of each connection that are not counted.
const WARM_UP: u32 = 20;

/// An echo server and a sink. Their threads end with this process.
pub(crate) struct Servers {
    /// Bytes that the sink has received.
    sunk: Arc<AtomicU64>,
}

impl Servers {
    pub(crate) fn start(host: &Host, echo: u16, sink: u16) -> Result<Self> {
        let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let bound = host.run_inside(|| (listen(any(echo)), std::net::TcpListener::bind(any(sink))))?;
        let (echo, sink) = (bound.0?, bound.1?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(echo) else { return };
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(echo_all(stream));
                    }
                }
            });
        });
        let sunk = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&sunk);
        std::thread::spawn(move || {
            for mut stream in sink.incoming().flatten() {
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 256 << 10];
                    while let Ok(read @ 1..) = stream.read(&mut buffer) {
                        counted.fetch_add(read as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        Ok(Self { sunk })
    }

    /// Bytes per second that arrive on `streams` streams.
    #[expect(clippy::disallowed_methods, reason = "a bench measures a span of time")]
    pub(crate) fn bulk(&self, client: &Host, to: SocketAddr, streams: usize, span: Duration) -> Result<f64> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut senders = Vec::new();
        for _ in 0..streams {
            let mut stream = client.run_inside(|| std::net::TcpStream::connect_timeout(&to, HANG))??;
            let stop = Arc::clone(&stop);
            senders.push(std::thread::spawn(move || {
                let block = vec![7; 256 << 10];
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&block)?;
                }
                std::io::Result::Ok(())
            }));
        }
        // In the first moments the windows are still growing.
        std::thread::sleep(span / 4);
        let (began, before) = (Instant::now(), self.sunk.load(Ordering::Relaxed));
        std::thread::sleep(span);
        let (took, bytes) = (began.elapsed(), self.sunk.load(Ordering::Relaxed) - before);
        stop.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok(bytes as f64 / took.as_secs_f64())
    }
}

fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec().nonblocking(), None)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

async fn echo_all(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 4 << 10];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}

/// Results of the clients.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// Answers per second.
    pub(crate) rate: f64,
    /// Median of the round trips in microseconds.
    pub(crate) median: f64,
    /// Number of cores that were busy on the whole machine.
    pub(crate) cores: f64,
}

/// A load of questions and answers.
#[derive(Clone, Copy)]
pub(crate) struct Questions {
    pub(crate) size: usize,
    pub(crate) connections: usize,
    /// Questions per second on all connections together; `None` for as many as possible.
    pub(crate) rate: Option<f64>,
}

/// Asks on all connections at once. Each waits for its answer before it asks again.
pub(crate) fn ask(client: &Host, to: SocketAddr, load: Questions, span: Duration) -> Result<Asked> {
    client.run_inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let streams = connect_and_warm_up(to, load).await?;
            let (cpu, began) = (busy_seconds()?, Instant::now());
            let until = began + span;
            // With a fixed rate, a few tasks ask on their many connections in turn.
            let groups = if load.rate.is_some() { 64.min(load.connections) } else { load.connections };
            let pause = load.rate.map(|rate| Duration::from_secs_f64(groups as f64 / rate));
            let mut parts: Vec<Vec<TcpStream>> = (0..groups).map(|_| Vec::new()).collect();
            for (number, stream) in streams.into_iter().enumerate() {
                parts[number % groups].push(stream);
            }
            let mut asking = tokio::task::JoinSet::new();
            for mut part in parts {
                asking.spawn(async move {
                    let mut buffer = vec![7; load.size];
                    let mut times = Vec::new();
                    for turn in 0.. {
                        let asked = Instant::now();
                        if asked >= until {
                            break;
                        }
                        let place = turn % part.len();
                        exchange(&mut part[place], &mut buffer).await?;
                        times.push(asked.elapsed());
                        if let Some(pause) = pause {
                            tokio::time::sleep_until((asked + pause).into()).await;
                        }
                    }
                    std::io::Result::Ok((times, part))
                });
            }
            let mut times = Vec::new();
            let mut open = Vec::new();
            while let Some(part) = asking.join_next().await {
                let (some, streams) = part??;
                times.extend(some);
                open.push(streams);
            }
            let took = began.elapsed().as_secs_f64();
            let cores = (busy_seconds()? - cpu) / took;
            ensure!(!times.is_empty(), "no answers");
            times.sort_unstable();
            let median = times[times.len() / 2].as_secs_f64() * 1e6;
            Ok(Asked { rate: times.len() as f64 / took, median, cores })
        })
    })?
}

/// Opens all connections, and asks on each until the agent's first reads are over.
async fn connect_and_warm_up(to: SocketAddr, load: Questions) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        let stream = tokio::time::timeout(HANG, TcpStream::connect(to)).await??;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let mut warm = tokio::task::JoinSet::new();
    for mut stream in streams {
        warm.spawn(async move {
            let mut buffer = vec![7; load.size];
            for _ in 0..WARM_UP {
                exchange(&mut stream, &mut buffer).await?;
            }
            std::io::Result::Ok(stream)
        });
    }
    let mut streams = Vec::with_capacity(load.connections);
    while let Some(stream) = warm.join_next().await {
        streams.push(stream??);
    }
    Ok(streams)
}

/// Connections per second, each for one question; `at_once` of them at the same time.
pub(crate) fn connect_often(client: &Host, to: SocketAddr, at_once: usize, span: Duration) -> Result<f64> {
    client.run_inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let began = Instant::now();
            let until = began + span;
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..at_once {
                tasks.spawn(async move {
                    let mut count = 0u64;
                    while Instant::now() < until {
                        let mut stream = TcpStream::connect(to).await?;
                        exchange(&mut stream, &mut [7; 64]).await?;
                        // Avoid TIME_WAIT at the client, which has few ports.
                        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
                        count += 1;
                    }
                    std::io::Result::Ok(count)
                });
            }
            let mut count = 0;
            while let Some(part) = tasks.join_next().await {
                count += part??;
            }
            Ok(count as f64 / began.elapsed().as_secs_f64())
        })
    })?
}

async fn exchange(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    let both = async {
        stream.write_all(buffer).await?;
        stream.read_exact(buffer).await
    };
    both.await.map(|_| ())
}

/// Seconds that all cores together were busy since the machine started.
pub(crate) fn busy_seconds() -> Result<f64> {
    /// USER_HZ, the same on every architecture that llb runs on.
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<f64> = line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq.
    ensure!(fields.len() >= 7, "/proc/stat is strange: {line}");
    Ok((fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / TICKS)
}
