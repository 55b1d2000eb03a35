// SPDX-License-Identifier: Apache-2.0
//! The terms of a Service (source ranges, affinity, PROXY header, limit), over real
//! sockets.

use std::num::NonZeroU32;

use ipnet::IpNet;

use super::super::metrics::Refusal;
use super::*;
use crate::model::{ProxyProtocol, SourceRanges};

fn only(range: &str) -> Terms {
    let range: IpNet = range.parse().unwrap();
    Terms { source_ranges: SourceRanges::only(&[range]), ..Terms::default() }
}

/// A range with `vip`, which is also the clients' address, and one of the same family without it.
fn ranges(vip: IpAddr) -> [&'static str; 2] {
    if vip.is_ipv4() { ["127.0.0.0/8", "192.0.2.0/24"] } else { ["::1/128", "2001:db8::/32"] }
}

#[tokio::test]
async fn source_ranges_refuse_new_connections_and_keep_old_ones() {
    for vip in LOOPBACKS {
        let backends = [tcp_echo(vip).await];
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &backends).await;
        let [own, other] = ranges(vip);
        fixture.upsert_with(frontend, &backends, only(own)).await;
        let mut old = connect(frontend).await;
        assert_echo(&mut old, "admitted").await;

        fixture.upsert_with(frontend, &backends, only(other)).await;
        assert_turned_away(frontend).await;
        assert_echo(&mut old, "still here").await;
        assert_eq!(fixture.metrics().refusals(Protocol::Tcp, Refusal::SourceRange).get(), 1);

        fixture.upsert_with(frontend, &backends, Terms::default()).await;
        assert_echo(&mut connect(frontend).await, "again").await;
    }
}

#[tokio::test]
async fn source_ranges_drop_datagrams_of_running_sessions_too() {
    for vip in LOOPBACKS {
        let backends = [udp_backend(vip, "a").await];
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Udp, &backends).await;
        let [own, other] = ranges(vip);
        fixture.upsert_with(frontend, &backends, only(own)).await;
        let client = udp_client(frontend).await;
        assert_eq!(ask(&client, b"1").await, b"a1");

        fixture.upsert_with(frontend, &backends, only(other)).await;
        client.send(b"2").await.unwrap();
        let refusals = fixture.metrics().refusals(Protocol::Udp, Refusal::SourceRange);
        eventually("the datagram is dropped", || refusals.get() == 1).await;
        assert_eq!(fixture.metrics().udp_sessions_active.get(), 0);

        fixture.upsert_with(frontend, &backends, only(own)).await;
        assert_eq!(ask(&client, b"3").await, b"a3", "the dropped datagram has no answer");
    }
}

#[tokio::test]
async fn affinity_sends_a_client_to_one_backend_address_on_every_port() {
    // Backends differ by address here, and IPv6 has only one loopback address.
    let addresses: [IpAddr; 4] = [1, 2, 3, 4].map(|last| [127, 0, 0, last].into());
    let mut fixture = Fixture::new(RelayConfig::default());
    let terms = Terms { affinity_timeout: Some(Duration::from_secs(600)), ..Terms::default() };
    let mut frontends = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Tcp, Protocol::Udp] {
        let mut backends = Vec::new();
        for address in addresses {
            backends.push(match protocol {
                Protocol::Tcp => tcp_namer(address).await,
                Protocol::Udp => udp_namer(address).await,
            });
        }
        let frontend = fixture.serve(LOOPBACKS[0], protocol, &backends).await;
        fixture.upsert_with(frontend, &backends, terms.clone()).await;
        frontends.push(frontend);
    }

    let mut found = Vec::new();
    for frontend in frontends {
        for _ in 0..4 {
            let mut name = String::new();
            match frontend.protocol {
                Protocol::Tcp => {
                    within("name", connect(frontend).await.read_to_string(&mut name)).await.unwrap();
                }
                Protocol::Udp => {
                    name = String::from_utf8(ask(&udp_client(frontend).await, b"?").await).unwrap()
                }
            }
            found.push(name);
        }
    }
    assert!(found.iter().all(|name| *name == found[0]), "{found:?}");
}

/// A backend that sends its own address to each client, and closes.
async fn tcp_namer(ip: IpAddr) -> SocketAddr {
    let (listener, address) = tcp_backend(ip).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // If this fails, the test notices that the address is missing.
            let _ = stream.write_all(ip.to_string().as_bytes()).await;
        }
    });
    address
}

async fn udp_namer(ip: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 8]).await {
            socket.send_to(ip.to_string().as_bytes(), from).await?;
        }
        std::io::Result::Ok(())
    });
    address
}

#[tokio::test]
async fn the_proxy_header_comes_before_anything_else() {
    for vip in LOOPBACKS {
        let (listener, backend) = tcp_backend(vip).await;
        let (_dead, dead) = dead_port(vip);
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[backend]).await;
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let terms = Terms { proxy_protocol: Some(version), ..Terms::default() };
            fixture.upsert_with(frontend, &[backend, dead], terms).await;
            // Two, so that the dead one is tried as well.
            for _ in 0..2 {
                let mut client = connect(frontend).await;
                let (mut server, _) = within("accept", listener.accept()).await.unwrap();
                let client_address = client.local_addr().unwrap();
                let mut expected =
                    super::super::proxy_protocol::header(version, client_address, frontend.socket_address());
                // The header does not wait for the client's first byte.
                let mut heard = vec![0; expected.len()];
                within("header", server.read_exact(&mut heard)).await.unwrap();
                client.write_all(b"hello").await.unwrap();
                client.shutdown().await.unwrap();
                within("the rest", server.read_to_end(&mut heard)).await.unwrap();
                expected.extend(b"hello");
                assert_eq!(heard, expected);
            }
        }
    }
}

/// Otherwise a client could pose as any other one.
#[tokio::test]
async fn a_proxy_header_of_a_client_is_data() {
    for vip in LOOPBACKS {
        let (listener, backend) = tcp_backend(vip).await;
        let mut fixture = Fixture::new(RelayConfig::default());
        let terms = Terms { proxy_protocol: Some(ProxyProtocol::V1), ..Terms::default() };
        let frontend = fixture.serve(vip, Protocol::Tcp, &[backend]).await;
        fixture.upsert_with(frontend, &[backend], terms).await;
        let mut client = connect(frontend).await;
        let (mut server, _) = within("accept", listener.accept()).await.unwrap();
        let from = client.local_addr().unwrap();
        let forged = b"PROXY TCP4 203.0.113.7 203.0.113.8 1 2\r\nhello";
        client.write_all(forged).await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        within("everything", server.read_to_end(&mut heard)).await.unwrap();
        let mut expected =
            super::super::proxy_protocol::header(ProxyProtocol::V1, from, frontend.socket_address());
        expected.extend(forged);
        assert_eq!(heard, expected);
    }
}

#[tokio::test]
async fn the_limit_of_a_service_counts_all_its_ports() {
    for vip in LOOPBACKS {
        let backends = [tcp_echo(vip).await];
        let mut fixture = Fixture::new(RelayConfig::default());
        let terms = Terms { max_connections: NonZeroU32::new(2), ..Terms::default() };
        let mut frontends = Vec::new();
        for _ in 0..2 {
            let frontend = fixture.serve(vip, Protocol::Tcp, &backends).await;
            fixture.upsert_with(frontend, &backends, terms.clone()).await;
            frontends.push(frontend);
        }
        let mut first = connect(frontends[0]).await;
        let mut second = connect(frontends[1]).await;
        assert_echo(&mut first, "first").await;
        assert_echo(&mut second, "second").await;
        for frontend in &frontends {
            assert_turned_away(*frontend).await;
        }
        assert_eq!(fixture.metrics().refusals(Protocol::Tcp, Refusal::ServiceLimit).get(), 2);

        drop(first);
        eventually("one has ended", || fixture.metrics().connections_active.get() == 1).await;
        assert_echo(&mut connect(frontends[1]).await, "third").await;
    }
}
