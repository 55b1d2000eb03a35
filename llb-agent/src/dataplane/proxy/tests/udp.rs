// SPDX-License-Identifier: Apache-2.0
//! UDP: datagrams, sessions, their limits and their backends.

use std::io::ErrorKind;
use std::num::NonZeroUsize;

use super::super::metrics::Refusal;
use super::*;

#[tokio::test]
async fn each_client_gets_its_own_answers_from_the_vip() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Udp, &[udp_backend(vip, "a:").await]).await;
        let (first, second) = (udp_client(frontend).await, udp_client(frontend).await);
        for round in [b"1", b"2"] {
            assert_eq!(
                ask(&first, &[b"first", &round[..]].concat()).await,
                [b"a:first", &round[..]].concat()
            );
            assert_eq!(ask(&second, round).await, [b"a:", &round[..]].concat());
        }
        assert_eq!(fixture.metrics().udp_sessions_active.get(), 2);
        assert_eq!(fixture.metrics().udp_datagrams.forward.get(), 4);
        // A reply is counted after it was sent.
        eventually("counted", || fixture.metrics().udp_datagrams.reply.get() == 4).await;
    }
}

#[tokio::test]
async fn empty_and_largest_datagrams_pass() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Udp, &[udp_backend(vip, "").await]).await;
        let client = udp_client(frontend).await;
        // IPv4: 65535 - 20 (IP) - 8 (UDP).
        for length in [0, 1, 1_472, 65_507] {
            let question = vec![7; length];
            assert!(ask(&client, &question).await == question, "{length} bytes");
        }
    }
}

#[tokio::test]
async fn an_idle_session_ends_and_a_new_one_begins() {
    for vip in LOOPBACKS {
        let config = RelayConfig { udp_idle_timeout: Duration::from_millis(100), ..RelayConfig::default() };
        let mut fixture = Fixture::new(config);
        let frontend = fixture.serve(vip, Protocol::Udp, &[udp_backend(vip, "a:").await]).await;
        let client = udp_client(frontend).await;
        for _ in 0..2 {
            assert_eq!(ask(&client, b"hello").await, b"a:hello");
            eventually("session ends", || fixture.metrics().udp_sessions_active.get() == 0).await;
        }
    }
}

#[tokio::test]
async fn a_session_moves_when_its_backend_leaves_the_rule() {
    for vip in LOOPBACKS {
        // Only one session is allowed: moving it must not need a second one.
        let config = RelayConfig { max_udp_sessions: NonZeroUsize::MIN, ..RelayConfig::default() };
        let mut fixture = Fixture::new(config);
        let (a, b) = (udp_backend(vip, "a:").await, udp_backend(vip, "b:").await);
        let frontend = fixture.serve(vip, Protocol::Udp, &[a]).await;
        let client = udp_client(frontend).await;
        assert_eq!(ask(&client, b"1").await, b"a:1");
        fixture.upsert(frontend, &[a, b]).await;
        assert_eq!(ask(&client, b"2").await, b"a:2");
        fixture.upsert(frontend, &[b]).await;
        assert_eq!(ask(&client, b"3").await, b"b:3");
        assert_eq!(fixture.metrics().udp_sessions_active.get(), 1);
    }
}

#[tokio::test]
async fn at_the_limit_new_clients_are_dropped_and_old_ones_go_on() {
    for vip in LOOPBACKS {
        let config = RelayConfig { max_udp_sessions: NonZeroUsize::MIN, ..RelayConfig::default() };
        let mut fixture = Fixture::new(config);
        let frontend = fixture.serve(vip, Protocol::Udp, &[udp_backend(vip, "a:").await]).await;
        let (first, second) = (udp_client(frontend).await, udp_client(frontend).await);
        assert_eq!(ask(&first, b"1").await, b"a:1");
        second.send(b"2").await.unwrap();
        let refusals = fixture.metrics().refusals(Protocol::Udp, Refusal::Limit);
        eventually("counted", || refusals.get() == 1).await;
        assert_eq!(ask(&first, b"3").await, b"a:3");
        assert_eq!(second.try_recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn a_session_leaves_a_backend_where_nothing_listens() {
    for vip in LOOPBACKS {
        // A socket that is connected to another address takes no datagram from llb, so
        // the kernel answers with ICMP port unreachable.
        let reserved = UdpSocket::bind((vip, 0)).await.unwrap();
        reserved.connect(reserved.local_addr().unwrap()).await.unwrap();
        let dead = reserved.local_addr().unwrap();
        let live = udp_backend(vip, "live:").await;
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Udp, &[dead]).await;
        let client = udp_client(frontend).await;
        client.send(b"lost").await.unwrap();
        eventually("session ends", || {
            fixture.metrics().connect_failures(Protocol::Udp).get() == 1
                && fixture.metrics().udp_sessions_active.get() == 0
        })
        .await;
        // The failed backend is avoided: all of these go to the other one at once.
        fixture.upsert(frontend, &[dead, live]).await;
        for _ in 0..4 {
            assert_eq!(ask(&udp_client(frontend).await, b"hello").await, b"live:hello");
        }
        assert_eq!(ask(&client, b"hello").await, b"live:hello");
    }
}

// With several threads, and many sessions that hold the socket, closing takes a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_backends_or_removed_the_port_is_closed_and_free() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let backend = udp_backend(vip, "a:").await;
        let frontend = fixture.serve(vip, Protocol::Udp, &[backend]).await;
        let client = udp_client(frontend).await;
        assert_eq!(ask(&client, b"1").await, b"a:1");

        fixture.upsert(frontend, &[]).await;
        eventually("sessions end", || fixture.metrics().udp_sessions_active.get() == 0).await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Serving));
        client.send(b"2").await.unwrap();
        let error = within("port unreachable", client.recv(&mut [0; 9])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

        // It is bound again at once, although the old socket is only just being closed.
        fixture.upsert(frontend, &[backend]).await;
        for _ in 0..20 {
            for _ in 0..20 {
                assert_eq!(ask(&udp_client(frontend).await, b"3").await, b"a:3");
            }
            fixture.upsert(frontend, &[]).await;
            fixture.upsert(frontend, &[backend]).await;
        }
        assert_eq!(ask(&client, b"4").await, b"a:4");

        fixture.plane.remove(&frontend);
        within("notice", fixture.changed.notified()).await;
        assert_eq!(fixture.phase(frontend), None);
        UdpSocket::bind(frontend.socket_address()).await.unwrap();
    }
}

/// A run is one call of the sender and one skb of the kernel. On loopback it arrives
/// in one piece, and must leave as the same datagrams.
#[tokio::test]
async fn a_run_of_datagrams_arrives_as_the_same_datagrams() {
    const SEGMENT: usize = 1_000;
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Udp, &[udp_backend(vip, "").await]).await;
        let client = udp_client(frontend).await;
        let state = quinn_udp::UdpSocketState::new((&client).into()).unwrap();
        // The last one is shorter, and each has other bytes.
        let run: Vec<u8> = (0..10 * SEGMENT - 7).map(|position| (position / SEGMENT) as u8).collect();
        let transmit = quinn_udp::Transmit {
            destination: frontend.socket_address(),
            ecn: None,
            contents: &run,
            segment_size: Some(SEGMENT),
            src_ip: None,
        };
        let is_whole = state.max_gso_segments() >= 10;
        assert!(is_whole, "this kernel does not take runs of datagrams");
        client.writable().await.unwrap();
        state.try_send((&client).into(), &transmit).unwrap();
        // The client's socket joins datagrams too, so only the sum of the pieces is compared.
        let mut answer: Vec<u8> = Vec::new();
        while answer.len() < run.len() {
            let mut buffer = vec![0; 65_535];
            let length = within("answers", client.recv(&mut buffer)).await.unwrap();
            answer.extend(&buffer[..length]);
        }
        answer.sort_unstable();
        assert!(answer == run, "{} bytes", answer.len());
        eventually("counted", || fixture.metrics().udp_datagrams.reply.get() == 10).await;
        assert_eq!(fixture.metrics().udp_datagrams.forward.get(), 10);
    }
}
