// SPDX-License-Identifier: Apache-2.0
//! One TCP connection: bytes, half-close, reset, retry, limits.

use std::num::NonZeroUsize;

use super::super::direction::COPY_BYTES;
use super::super::metrics::Refusal;
use super::*;

#[tokio::test]
async fn half_close_is_kept_both_ways() {
    for vip in LOOPBACKS {
        let (listener, backend) = tcp_backend(vip).await;
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[backend]).await;

        // The side that ends first must still get everything that the other sends.
        for client_ends_first in [true, false] {
            let client = connect(frontend).await;
            let (server, _) = within("accept", listener.accept()).await.unwrap();
            let (mut first, mut second) = if client_ends_first { (client, server) } else { (server, client) };
            let mut heard = String::new();
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            within("question", second.read_to_string(&mut heard)).await.unwrap();
            second.write_all(b", answer").await.unwrap();
            second.shutdown().await.unwrap();
            within("answer", first.read_to_string(&mut heard)).await.unwrap();
            assert_eq!(heard, "question, answer");
        }
        eventually("connections end", || fixture.metrics().connections_active.get() == 0).await;
        assert_eq!(fixture.metrics().connections.get(), 2);
        assert_eq!(fixture.metrics().bytes.forward.get(), 16);
        assert_eq!(fixture.metrics().bytes.reply.get(), 16);
    }
}

/// `length` bytes whose pattern does not repeat with the size of any buffer.
fn pattern(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..length / 4).flat_map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()
    });
    words.collect()
}

#[tokio::test]
async fn much_data_in_both_directions_arrives_unchanged() {
    const LENGTH: usize = 32 * 1024 * 1024;
    let (there, back) = (pattern(1, LENGTH), pattern(2, LENGTH));
    for vip in LOOPBACKS {
        let (listener, backend) = tcp_backend(vip).await;
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[backend]).await;

        let mut client = connect(frontend).await;
        let (mut server, _) = within("accept", listener.accept()).await.unwrap();
        let exchange = async |stream: &mut TcpStream, say: &[u8]| {
            let (mut read, mut write) = stream.split();
            let mut heard = Vec::with_capacity(LENGTH);
            let speak = async {
                write.write_all(say).await?;
                write.shutdown().await
            };
            let (spoken, listened) = tokio::join!(speak, read.read_to_end(&mut heard));
            spoken.and(listened).unwrap();
            heard
        };
        let (at_client, at_server) = within("32 MiB both ways", async {
            tokio::join!(exchange(&mut client, &there), exchange(&mut server, &back))
        })
        .await;
        assert!(at_server == there && at_client == back, "content differs");
    }
}

/// Writes until nothing moves for a while; returns the number of bytes.
async fn write_until_blocked(stream: &mut TcpStream, limit: usize) -> usize {
    let chunk = vec![7; COPY_BYTES];
    let mut written = 0;
    while let Ok(result) = tokio::time::timeout(Duration::from_millis(500), stream.write(&chunk)).await {
        written += result.unwrap();
        assert!(written < limit, "the writer is never blocked");
    }
    written
}

#[tokio::test]
async fn a_reader_that_pauses_stops_the_writer_and_nothing_is_lost() {
    // All kernel buffers on the way together hold less. A relay that reads ahead without limit takes more.
    const MAX_ON_THE_WAY: usize = 128 * 1024 * 1024;
    for vip in LOOPBACKS {
        let (listener, backend) = tcp_backend(vip).await;
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[backend]).await;

        let mut client = connect(frontend).await;
        let (mut server, _) = within("accept", listener.accept()).await.unwrap();
        let written = within("blocked writer", write_until_blocked(&mut client, MAX_ON_THE_WAY)).await;
        // The reply direction still works.
        server.write_all(b"still here").await.unwrap();
        let mut answer = [0; 10];
        within("reply", client.read_exact(&mut answer)).await.unwrap();

        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        within("the rest", server.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard.len(), written);
    }
}

#[tokio::test]
async fn reset_is_passed_on_both_ways() {
    for vip in LOOPBACKS {
        let (listener, backend) = tcp_backend(vip).await;
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[backend]).await;
        for client_resets in [true, false] {
            let mut client = connect(frontend).await;
            let (mut server, _) = within("accept", listener.accept()).await.unwrap();
            client.write_all(b"x").await.unwrap();
            within("a byte", server.read_u8()).await.unwrap();
            let (resetting, mut other) = if client_resets { (client, server) } else { (server, client) };
            resetting.set_zero_linger().unwrap();
            drop(resetting);
            assert_reset(&mut other).await;
        }
        eventually("connections end", || fixture.metrics().connections_active.get() == 0).await;
    }
}

#[tokio::test]
async fn a_side_lost_after_its_half_close_or_while_the_other_does_not_read_is_noticed() {
    for vip in LOOPBACKS {
        let (listener, backend) = tcp_backend(vip).await;
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[backend]).await;

        // FIN, then RST: the relay no longer reads this side.
        let mut half_closed = connect(frontend).await;
        let (mut waiting, _) = within("accept", listener.accept()).await.unwrap();
        half_closed.shutdown().await.unwrap();
        assert_eq!(within("FIN", waiting.read(&mut [0; 1])).await.unwrap(), 0);
        half_closed.set_zero_linger().unwrap();
        drop(half_closed);

        // RST while the relay waits for a backend that does not read.
        let mut blocked = connect(frontend).await;
        let (_stuck, _) = within("accept", listener.accept()).await.unwrap();
        write_until_blocked(&mut blocked, usize::MAX).await;
        blocked.set_zero_linger().unwrap();
        drop(blocked);

        eventually("connections end", || fixture.metrics().connections_active.get() == 0).await;
        assert!(waiting.write_all(b"too late").await.is_err());
    }
}

#[tokio::test]
async fn an_answer_before_a_reset_arrives() {
    for vip in LOOPBACKS {
        let (listener, backend) = tcp_backend(vip).await;
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[backend]).await;

        // Like an HTTP server that refuses an upload: answer, then close with
        // unread data, which makes the kernel send RST.
        let mut client = connect(frontend).await;
        let (mut server, _) = within("accept", listener.accept()).await.unwrap();
        client.write_all(b"upload").await.unwrap();
        within("upload", server.peek(&mut [0; 1])).await.unwrap();
        server.write_all(b"413").await.unwrap();
        drop(server);
        let mut answer = [0; 3];
        within("answer", client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"413");
        assert_reset(&mut client).await;
    }
}

#[tokio::test]
async fn with_a_dead_backend_every_request_succeeds() {
    for vip in LOOPBACKS {
        let (_reserved, dead) = dead_port(vip);
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[dead, tcp_echo(vip).await]).await;
        for _ in 0..20 {
            assert_echo(&mut connect(frontend).await, "hello").await;
        }
        // The failure is remembered: one attempt, and one more each time that this ends.
        let failures = fixture.metrics().connect_failures(Protocol::Tcp).get();
        assert!((1..10).contains(&failures), "{failures} failures");
    }
}

#[tokio::test]
async fn a_silent_backend_costs_one_connection_a_time_out_and_delays_no_other() {
    for vip in LOOPBACKS {
        let (_listener, _queued, silent) = black_hole(vip).await;
        let config = RelayConfig { connect_timeout: Duration::from_millis(500), ..RelayConfig::default() };
        let mut fixture = Fixture::new(config);
        let frontend = fixture.serve(vip, Protocol::Tcp, &[silent]).await;

        let mut unlucky = connect(frontend).await;
        eventually("accepted", || fixture.metrics().connections.get() == 1).await;
        // While that one waits, others are served.
        fixture.upsert(frontend, &[silent, tcp_echo(vip).await]).await;
        for _ in 0..10 {
            assert_echo(&mut connect(frontend).await, "hello").await;
        }
        // After the time-out the new backend serves it too.
        assert_echo(&mut unlucky, "hello").await;
        let failures = fixture.metrics().connect_failures(Protocol::Tcp).get();
        assert!((1..5).contains(&failures), "{failures} failures");
    }
}

#[tokio::test]
async fn without_a_backend_that_answers_the_client_is_reset() {
    for vip in LOOPBACKS {
        let (_reserved, dead) = dead_port(vip);
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[dead]).await;
        assert_turned_away(frontend).await;
        assert_eq!(fixture.metrics().refusals(Protocol::Tcp, Refusal::Unreachable).get(), 1);
        // Without another backend it is tried again although it has just failed.
        assert_turned_away(frontend).await;
        assert_eq!(fixture.metrics().connect_failures(Protocol::Tcp).get(), 2);
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_reset_until_one_has_ended() {
    for vip in LOOPBACKS {
        let config = RelayConfig { max_connections: NonZeroUsize::MIN, ..RelayConfig::default() };
        let mut fixture = Fixture::new(config);
        let frontend = fixture.serve(vip, Protocol::Tcp, &[tcp_echo(vip).await]).await;
        let mut first = connect(frontend).await;
        assert_echo(&mut first, "hello").await;
        assert_turned_away(frontend).await;
        assert_eq!(fixture.metrics().refusals(Protocol::Tcp, Refusal::Limit).get(), 1);
        assert_echo(&mut first, "still here").await;

        drop(first);
        eventually("the connection ends", || fixture.metrics().connections_active.get() == 0).await;
        eventually("the permit is returned", || {
            fixture.plane.context.limits.connections.available_permits() == 1
        })
        .await;
        assert_echo(&mut connect(frontend).await, "next").await;
    }
}

#[tokio::test]
async fn a_connection_that_is_idle_for_too_long_is_reset() {
    for vip in LOOPBACKS {
        let config = RelayConfig { tcp_idle_timeout: Duration::from_millis(200), ..RelayConfig::default() };
        let mut fixture = Fixture::new(config);
        let frontend = fixture.serve(vip, Protocol::Tcp, &[tcp_echo(vip).await]).await;
        let mut client = connect(frontend).await;
        assert_echo(&mut client, "hello").await;
        assert_reset(&mut client).await;
        eventually("ended", || fixture.metrics().connections_active.get() == 0).await;
    }
}

#[tokio::test]
async fn each_frontend_and_each_backend_has_its_own_counters() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let (_dead, dead) = dead_port(vip);
        let live = tcp_echo(vip).await;
        let frontend = fixture.serve(vip, Protocol::Tcp, &[dead, live]).await;
        let of = rule(&[live]);
        let traffic = &fixture.plane.context.counters.traffic;
        // Two, so that the dead one is tried as well.
        let mut clients = [connect(frontend).await, connect(frontend).await];
        for client in &mut clients {
            assert_echo(client, "hello").await;
        }
        let whole = traffic.of_frontend(&of.service, frontend);
        let [good, bad] =
            [live, dead].map(|address| traffic.of_backend(&of.service, frontend, Backend { address }));
        assert_eq!((whole.connections.get(), whole.active.get()), (2, 2));
        assert_eq!((good.connections.get(), good.failures.get()), (2, 0));
        assert_eq!((bad.connections.get(), bad.failures.get()), (0, 1));
        drop(clients);
        eventually("ended", || whole.active.get() == 0 && good.active.get() == 0).await;
        assert_eq!((whole.bytes.forward.get(), good.bytes.reply.get()), (10, 10));
    }
}

/// splice(2) returns 0 at the urgent mark, as at the end of a stream.
#[tokio::test]
async fn urgent_data_in_a_bulk_stream_does_not_end_it() {
    const HALF: usize = 1 << 20;
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[tcp_echo(vip).await]).await;
        let mut client = connect(frontend).await;
        let (mut read, mut write) = client.split();
        let sending = async {
            let half = vec![7; HALF];
            write.write_all(&half).await.unwrap();
            let socket: &TcpStream = write.as_ref();
            socket.writable().await.unwrap();
            socket2::SockRef::from(socket).send_out_of_band(b"!").unwrap();
            write.write_all(&half).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut answer = Vec::new();
        let receiving = async { read.read_to_end(&mut answer).await.unwrap() };
        let ((), received) = within("both halves", async { tokio::join!(sending, receiving) }).await;
        assert_eq!(received, 2 * HALF + 1, "with the urgent byte");
        assert_eq!(answer.iter().position(|byte| *byte == b'!'), Some(HALF), "in its place");
    }
}
