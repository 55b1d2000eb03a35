// SPDX-License-Identifier: Apache-2.0
//! The proxy plane over real sockets on loopback, without root. Each scenario
//! is one function that runs for IPv4 and for IPv6. This file has what they share.

mod beside;
mod frontends;
mod shares;
mod tcp;
mod terms;
mod udp;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Notify;

use super::ProxyPlane;
use super::metrics::Metrics;
use crate::config::RelayConfig;
use crate::dataplane::{DataPlane, DataPlaneError};
use crate::model::{Backend, Frontend, Phase, Port, Protocol, Rule, ServiceName, Terms, Weight};

/// The addresses of VIPs and backends in all tests.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The limit for each condition; ample even on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Another program may take a port after it was found free and before it is bound.
const PORT_ATTEMPTS: usize = 10;

/// A plane and its notifications.
struct Fixture {
    plane: ProxyPlane,
    changed: Arc<Notify>,
}

impl Fixture {
    fn new(config: RelayConfig) -> Self {
        let changed = Arc::new(Notify::new());
        let plane = ProxyPlane::new(config, &mut Registry::default(), Arc::clone(&changed)).unwrap();
        Self { plane, changed }
    }

    /// Serves a new frontend on a free port of `vip`.
    async fn serve(&mut self, vip: IpAddr, protocol: Protocol, backends: &[SocketAddr]) -> Frontend {
        for _ in 0..PORT_ATTEMPTS {
            let frontend = Frontend { vip, port: free_port(vip, protocol), protocol };
            match self.plane.upsert(frontend, &rule(backends)).await {
                Ok(()) => return frontend,
                Err(DataPlaneError::PortInUse { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no free port");
    }

    async fn upsert(&mut self, frontend: Frontend, backends: &[SocketAddr]) {
        self.plane.upsert(frontend, &rule(backends)).await.unwrap();
    }

    async fn upsert_with(&mut self, frontend: Frontend, backends: &[SocketAddr], terms: Terms) {
        self.plane.upsert(frontend, &Rule { terms, ..Rule::clone(&rule(backends)) }.into()).await.unwrap();
    }

    fn phase(&mut self, frontend: Frontend) -> Option<Phase> {
        self.plane.observe().get(&frontend).map(|status| status.phase)
    }

    fn metrics(&self) -> &Metrics {
        &self.plane.context.counters.totals
    }
}

fn rule(backends: &[SocketAddr]) -> Arc<Rule> {
    let backends = backends.iter().map(|address| (Backend { address: *address }, Weight::MIN)).collect();
    Arc::new(Rule::new(ServiceName::new("default", "web"), backends, Terms::default()))
}

fn free_port(ip: IpAddr, protocol: Protocol) -> Port {
    let address = match protocol {
        Protocol::Tcp => std::net::TcpListener::bind((ip, 0)).unwrap().local_addr(),
        Protocol::Udp => std::net::UdpSocket::bind((ip, 0)).unwrap().local_addr(),
    };
    Port::new(address.unwrap().port().into()).unwrap()
}

/// Waits for `future`; the test fails after [`LIMIT`].
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long: {what}"),
    }
}

/// Checks `condition` until it holds.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

// === Clients and backends ===

async fn connect(frontend: Frontend) -> TcpStream {
    within("connect", TcpStream::connect(frontend.socket_address())).await.unwrap()
}

/// A listener whose connections the test accepts by itself.
async fn tcp_backend(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Sends back what it receives, until FIN.
async fn tcp_echo(ip: IpAddr) -> SocketAddr {
    let (listener, address) = tcp_backend(ip).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

/// A port where nothing listens, and nothing can while the socket lives.
fn dead_port(ip: IpAddr) -> (TcpSocket, SocketAddr) {
    let socket = match ip {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }
    .unwrap();
    socket.bind((ip, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A backend that answers no SYN: its accept queue is full and nothing is
/// accepted, while the returned sockets live.
async fn black_hole(ip: IpAddr) -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let (socket, address) = dead_port(ip);
    let listener = socket.listen(0).unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        queued.push(connected.unwrap());
        assert!(queued.len() < 10, "the accept queue does not fill up");
    }
    (listener, queued, address)
}

/// Sends `text` and expects it back.
async fn assert_echo(stream: &mut TcpStream, text: &str) {
    within("echo", async {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, text.as_bytes());
    })
    .await;
}

/// Reads what is left and expects RST at the end, not FIN.
async fn assert_reset(stream: &mut TcpStream) {
    let error = within("reset", stream.read_to_end(&mut Vec::new())).await.expect_err("FIN instead of RST");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Connects and expects RST before anything else. The kernel accepts before llb
/// can refuse, so RST may come during the connect or after it.
async fn assert_turned_away(frontend: Frontend) {
    match within("connect", TcpStream::connect(frontend.socket_address())).await {
        Ok(mut stream) => assert_reset(&mut stream).await,
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

async fn assert_refused(frontend: Frontend) {
    let error = within("refusal", TcpStream::connect(frontend.socket_address()))
        .await
        .expect_err("connected to a frontend that should refuse");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// Answers each datagram with `name` and the datagram.
async fn udp_backend(ip: IpAddr, name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = [name.as_bytes(), &buffer[..length]].concat();
            // Without the name if the answer would be too long with it.
            if socket.send_to(&answer, from).await.is_err() {
                socket.send_to(&buffer[..length], from).await?;
            }
        }
        std::io::Result::Ok(())
    });
    address
}

/// A connected socket, so it takes datagrams only from the frontend's own address.
async fn udp_client(frontend: Frontend) -> UdpSocket {
    let socket = UdpSocket::bind((frontend.vip, 0)).await.unwrap();
    socket.connect(frontend.socket_address()).await.unwrap();
    socket
}

async fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    client.send(question).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = within("UDP answer", client.recv(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    buffer
}
