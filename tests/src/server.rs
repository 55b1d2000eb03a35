// SPDX-License-Identifier: Apache-2.0
//! Stand-ins for the programs behind a Service: HTTP, TCP echo and UDP echo servers on a lab's host. Each can
//! be stopped, and started again at the same address.
//!
//! A green test with them does not prove that llb gets on with the servers of users. They speak a small part of
//! HTTP/1.1, know no request bodies and no TLS, answer at once, and close without cutting off a client, which other
//! servers often do when they stop.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Host;

/// How long a connection that was accepted before the stop may take to send its first request. A client on the
/// same machine needs far less.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Time for a handshake that has begun to end; on one machine it takes microseconds.
const HANDSHAKE_LIMIT: Duration = Duration::from_millis(50);

/// The path of a download: the number behind it is the length of the answer in bytes.
const DOWNLOADS: &str = "/zeros/";

/// The largest UDP payload.
const MAX_DATAGRAM: usize = 65_507;

/// A server in this process, on a thread inside the host's namespace. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// True once it must stop.
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// HTTP/1.1: answers each request with status 200 and the body `<name> <peer address>
    /// `, or with as many zeros as the path asks for ([`download_path`]). Keeps the connection open if the
    /// client asks for that.
    ///
    /// # Errors
    /// The address can't be bound.
    pub fn http(host: &Host, address: SocketAddr, name: &str) -> Result<Self> {
        Self::start(host, address, Kind::Http { name: name.to_owned() })
    }

    /// TCP: sends everything back, and closes its own direction when the client has closed the other.
    ///
    /// # Errors
    /// The address can't be bound.
    pub fn echo(host: &Host, address: SocketAddr) -> Result<Self> {
        Self::start(host, address, Kind::Echo)
    }

    /// UDP: answers each datagram with `<name> <peer address> ` and the content of the datagram.
    ///
    /// # Errors
    /// The address can't be bound.
    pub fn udp(host: &Host, address: SocketAddr, name: &str) -> Result<Self> {
        Self::start(host, address, Kind::Udp { name: name.to_owned() })
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port, answers what it has accepted already, and returns when all connections are closed.
    pub fn stop(mut self) {
        self.end();
    }

    fn start(host: &Host, address: SocketAddr, kind: Kind) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = sync_channel(1);
        let namespace_host = host.clone();
        let thread =
            std::thread::Builder::new().name(format!("{}-{address}", host.name())).spawn(move || {
                // Sending fails only if `start` itself panicked, so that nobody reads `ready`.
                let outcome = namespace_host.enter_for_good().and_then(|()| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    let socket = runtime
                        .block_on(kind.bind(address))
                        .with_context(|| format!("cannot bind {address} on {}", namespace_host.name()))?;
                    Ok((runtime, socket))
                });
                match outcome {
                    Ok((runtime, socket)) => {
                        let _ = ready.send(Ok(()));
                        runtime.block_on(socket.serve(stopped));
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })?;
        is_ready.recv().map_err(|_| anyhow!("the server for {address} ended at once"))??;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // The panic of that thread was printed already; dropping must not panic again.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The path at which an HTTP [`Server`] returns `length` zeros.
pub fn download_path(length: u64) -> String {
    format!("{DOWNLOADS}{length}")
}

enum Kind {
    Http { name: String },
    Echo,
    Udp { name: String },
}

impl Kind {
    async fn bind(self, address: SocketAddr) -> io::Result<Bound> {
        Ok(match self {
            Self::Http { name } => Bound::Http(TcpListener::bind(address).await?, name),
            Self::Echo => Bound::Echo(TcpListener::bind(address).await?),
            Self::Udp { name } => Bound::Udp(UdpSocket::bind(address).await?, name),
        })
    }
}

enum Bound {
    Http(TcpListener, String),
    Echo(TcpListener),
    Udp(UdpSocket, String),
}

impl Bound {
    async fn serve(self, stopped: watch::Receiver<bool>) {
        match self {
            Self::Http(listener, name) => {
                accept_all(listener, stopped, move |stream, peer, stopped| {
                    answer_http(stream, format!("{name} {peer}\n"), stopped)
                })
                .await;
            }
            Self::Echo(listener) => {
                accept_all(listener, stopped, |stream, _, stopped| echo(stream, stopped)).await;
            }
            Self::Udp(socket, name) => answer_datagrams(&socket, &name, stopped).await,
        }
    }
}

async fn accept_all<F>(
    listener: TcpListener,
    stopped: watch::Receiver<bool>,
    serve: impl Fn(TcpStream, SocketAddr, watch::Receiver<bool>) -> F,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut end = Box::pin(close_gently(&listener, stopped.clone()));
    loop {
        let accepted = tokio::select! {
            // In this order: connections that wait are accepted before the server ends.
            biased;
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        if let Ok((stream, peer)) = accepted {
            connections.spawn(serve(stream, peer, stopped.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
    drop(end);
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Ends when `listener` can be closed without resetting a client: no new handshake begins, and those that had
/// begun are accepted.
///
/// The kernel resets connections that it has accepted and the server has not. To a client this looks like a
/// broken answer, so "no request failed" would depend on luck, whatever is under test.
async fn close_gently(listener: &TcpListener, mut stopped: watch::Receiver<bool>) {
    // An error means that the owner is gone, which also ends the server.
    let _ = stopped.wait_for(|&stop| stop).await;
    // Classic BPF on the TCP header: drop segments with SYN and without ACK.
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let no_new_connections = [
        SockFilter::new(0x30, 0, 0, FLAGS_OFFSET), // load the byte
        SockFilter::new(0x54, 0, 0, SYN | ACK),    // and
        SockFilter::new(0x15, 0, 1, SYN),          // if not equal, skip one
        SockFilter::new(0x06, 0, 0, 0),            // drop
        SockFilter::new(0x06, 0, 0, u32::MAX),     // keep all of it
    ];
    if let Err(error) = SockRef::from(listener).attach_filter(&no_new_connections) {
        eprintln!("a server in the lab may reset connections when it stops: {error}");
    }
    tokio::time::sleep(HANDSHAKE_LIMIT).await;
}

/// Serves one connection. A client that goes away early is not an error.
async fn answer_http(stream: TcpStream, body: String, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut requests = BufReader::new(read).lines();
    let mut keep_alive = true;
    let mut served = 0;
    while keep_alive {
        let request = read_request(&mut requests);
        let request = tokio::select! {
            request = request => request?,
            () = time_to_leave(&mut stopped, served) => return Ok(()),
        };
        let Some(request) = request else { return Ok(()) };
        keep_alive = request.keep_alive && !*stopped.borrow();
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let length = request.download.unwrap_or(body.len() as u64);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n",
        );
        match request.download {
            None => write.write_all((head + &body).as_bytes()).await?,
            Some(length) => {
                write.write_all(head.as_bytes()).await?;
                tokio::io::copy(&mut tokio::io::repeat(0).take(length), &mut write).await?;
            }
        }
        served += 1;
    }
    write.shutdown().await
}

/// A connection that has had an answer may be closed at once. One without may have its request on the way.
async fn time_to_leave(stopped: &mut watch::Receiver<bool>, served: u32) {
    // An error means that the owner is gone, which also ends the server.
    let _ = stopped.wait_for(|&stop| stop).await;
    if served == 0 {
        tokio::time::sleep(STOP_GRACE).await;
    }
}

struct Request {
    keep_alive: bool,
    /// Length of the answer in bytes.
    download: Option<u64>,
}

/// Reads the head of a request up to the empty line; `None` at the end of the connection. Requests with a body
/// are not supported.
async fn read_request(
    lines: &mut tokio::io::Lines<BufReader<tokio::net::tcp::OwnedReadHalf>>,
) -> io::Result<Option<Request>> {
    let Some(first) = lines.next_line().await? else { return Ok(None) };
    let path = first.split(' ').nth(1).unwrap_or_default();
    let download = path.strip_prefix(DOWNLOADS).and_then(|length| length.parse().ok());
    let mut keep_alive = true;
    while let Some(line) = lines.next_line().await? {
        if line.is_empty() {
            return Ok(Some(Request { keep_alive, download }));
        }
        keep_alive &= !line.eq_ignore_ascii_case("connection: close");
    }
    Ok(None)
}

async fn echo(mut stream: TcpStream, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    let copy = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = read.read(&mut buffer).await?;
            if count == 0 {
                return write.shutdown().await;
            }
            write.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! {
        done = copy => done,
        _ = stopped.wait_for(|&stop| stop) => Ok(()),
    }
}

async fn answer_datagrams(socket: &UdpSocket, name: &str, mut stopped: watch::Receiver<bool>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            _ = stopped.wait_for(|&stop| stop) => return,
        };
        // An error here is an ICMP message about an earlier answer.
        let Ok((count, peer)) = received else { continue };
        let mut answer = format!("{name} {peer} ").into_bytes();
        answer.extend_from_slice(&buffer[..count]);
        // Any datagram may get lost, so this one may too. The limit keeps a full socket from delaying the end.
        let _ = timeout(STOP_GRACE, socket.send_to(&answer, peer)).await;
    }
}
