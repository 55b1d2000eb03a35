// SPDX-License-Identifier: Apache-2.0
//! The life of a frontend: binding, changes of the rule, draining, shutting down.

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::SockRef;

use super::*;

#[tokio::test]
async fn a_vip_that_is_not_on_a_link_yet_can_be_served() {
    let mut fixture = Fixture::new(RelayConfig::default());
    // Two runs of these tests at the same time must not compete for the port.
    let port = Port::new(i64::from(20_000 + std::process::id() % 10_000)).unwrap();
    for vip in ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let frontend = Frontend { vip, port, protocol };
            fixture.upsert(frontend, &["192.0.2.9:80".parse().unwrap()]).await;
            assert_eq!(fixture.phase(frontend), Some(Phase::Serving));
        }
    }
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_its_program_and_nothing_else_changes() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let healthy = fixture.serve(vip, Protocol::Tcp, &[tcp_echo(vip).await]).await;

        let (_listener, taken_tcp) = tcp_backend(vip).await;
        let taken_udp = udp_backend(vip, "").await;
        for (taken, protocol) in [(taken_tcp, Protocol::Tcp), (taken_udp, Protocol::Udp)] {
            let frontend = Frontend { vip, port: Port::new(taken.port().into()).unwrap(), protocol };
            let error = fixture.plane.upsert(frontend, &rule(&[taken])).await.expect_err("stole a port");
            let DataPlaneError::PortInUse { frontend: named, program } = error else { panic!("{error}") };
            assert_eq!(named, frontend);
            let program = program.expect("this process has the port, so it can be named");
            assert!(program.ends_with(&format!("(pid {})", std::process::id())), "{program}");
            assert_eq!(fixture.phase(frontend), None);
        }
        assert_echo(&mut connect(healthy).await, "hello").await;
    }
}

#[tokio::test]
async fn a_new_rule_is_for_new_connections_only() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[tcp_echo(vip).await]).await;
        let mut old = connect(frontend).await;
        assert_echo(&mut old, "hello").await;

        let (listener, other) = tcp_backend(vip).await;
        fixture.upsert(frontend, &[other]).await;
        assert_eq!(fixture.plane.observe()[&frontend].rule, Some(rule(&[other])));
        let _new = connect(frontend).await;
        within("new connection at the new backend", listener.accept()).await.unwrap();
        assert_echo(&mut old, "still here").await;
    }
}

#[tokio::test]
async fn without_backends_a_frontend_refuses_and_keeps_what_is_open() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[]).await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Serving));
        assert_refused(frontend).await;

        let echo = tcp_echo(vip).await;
        fixture.upsert(frontend, &[echo]).await;
        let mut old = connect(frontend).await;
        assert_echo(&mut old, "hello").await;

        fixture.upsert(frontend, &[]).await;
        assert_refused(frontend).await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Serving));
        assert_echo(&mut old, "still here").await;

        fixture.upsert(frontend, &[echo]).await;
        assert_echo(&mut connect(frontend).await, "again").await;
        assert_echo(&mut old, "still here").await;
    }
}

/// Otherwise that program would answer the clients, and the address would be published all the same.
#[tokio::test]
async fn without_backends_the_port_of_another_program_is_not_taken() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let other = std::net::TcpListener::bind((vip, 0)).unwrap();
        let port = Port::new(other.local_addr().unwrap().port().into()).unwrap();
        let frontend = Frontend { vip, port, protocol: Protocol::Tcp };
        let refused = fixture.plane.upsert(frontend, &rule(&[])).await.unwrap_err();
        assert!(matches!(refused, DataPlaneError::PortInUse { .. }), "{refused}");
        drop(other);
        fixture.upsert(frontend, &[]).await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Serving));
        assert_refused(frontend).await;
    }
}

#[tokio::test]
async fn a_removed_frontend_drains() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let frontend = fixture.serve(vip, Protocol::Tcp, &[tcp_echo(vip).await]).await;
        let mut old = connect(frontend).await;
        assert_echo(&mut old, "hello").await;

        fixture.plane.remove(&frontend);
        fixture.plane.remove(&frontend);
        assert_refused(frontend).await;
        assert_echo(&mut old, "still here").await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Draining));

        old.shutdown().await.unwrap();
        assert_eq!(within("clean end", old.read(&mut [0; 1])).await.unwrap(), 0);
        within("notice", fixture.changed.notified()).await;
        assert_eq!(fixture.phase(frontend), None);
    }
}

#[tokio::test]
async fn a_drain_ends_with_its_time_out() {
    for vip in LOOPBACKS {
        let config = RelayConfig { drain_timeout: Duration::from_millis(200), ..RelayConfig::default() };
        let mut fixture = Fixture::new(config);
        let frontend = fixture.serve(vip, Protocol::Tcp, &[tcp_echo(vip).await]).await;
        let mut old = connect(frontend).await;
        assert_echo(&mut old, "hello").await;

        fixture.plane.remove(&frontend);
        assert_reset(&mut old).await;
        within("notice", fixture.changed.notified()).await;
        assert_eq!(fixture.phase(frontend), None);
        assert_eq!(fixture.metrics().connections_active.get(), 0);

        // A frontend that is gone can be served again.
        fixture.upsert(frontend, &[tcp_echo(vip).await]).await;
        assert_echo(&mut connect(frontend).await, "again").await;
    }
}

#[tokio::test]
async fn a_draining_frontend_can_serve_again_at_once() {
    for vip in LOOPBACKS {
        let config = RelayConfig { drain_timeout: Duration::from_millis(300), ..RelayConfig::default() };
        let mut fixture = Fixture::new(config);
        let echo = tcp_echo(vip).await;
        let frontend = fixture.serve(vip, Protocol::Tcp, &[echo]).await;
        let mut old = connect(frontend).await;
        assert_echo(&mut old, "hello").await;

        fixture.plane.remove(&frontend);
        fixture.upsert(frontend, &[echo]).await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Serving));
        assert_echo(&mut connect(frontend).await, "new").await;

        // The drain that was called off must not cut anything at its time-out. A later
        // drain of another frontend, with the same time-out, ends after that moment.
        let other = fixture.serve(vip, Protocol::Tcp, &[echo]).await;
        let mut cut = connect(other).await;
        assert_echo(&mut cut, "hello").await;
        fixture.plane.remove(&other);
        assert_reset(&mut cut).await;
        assert_echo(&mut old, "still here").await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Serving));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_cuts_what_is_open_without_waiting() {
    for vip in LOOPBACKS {
        let mut fixture =
            Fixture::new(RelayConfig { drain_timeout: Duration::from_secs(3600), ..RelayConfig::default() });
        let echo = tcp_echo(vip).await;
        let (first, second) = (
            fixture.serve(vip, Protocol::Tcp, &[echo]).await,
            fixture.serve(vip, Protocol::Tcp, &[echo]).await,
        );
        let udp = fixture.serve(vip, Protocol::Udp, &[udp_backend(vip, "").await]).await;
        let (mut one, mut other) = (connect(first).await, connect(second).await);
        assert_echo(&mut one, "hello").await;
        assert_echo(&mut other, "hello").await;
        ask(&udp_client(udp).await, b"hello").await;

        fixture.plane.remove(&second);
        fixture.plane.abort();
        assert_reset(&mut one).await;
        assert_reset(&mut other).await;
        eventually("all are gone", || fixture.plane.observe().is_empty()).await;
        assert_eq!(fixture.metrics().connections_active.get(), 0);
        assert_eq!(fixture.metrics().udp_sessions_active.get(), 0);
        assert_refused(first).await;
    }
}

/// Shuts down the listener of `frontend`, as `ss --kill` does.
fn kill_listener(frontend: Frontend) {
    let this_process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let number = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let Ok(fd) = pidfd_getfd(&this_process, number, PidfdGetfdFlags::empty()) else { continue };
        let socket = SockRef::from(&fd);
        let is_there = socket.local_addr().is_ok_and(|a| a.as_socket() == Some(frontend.socket_address()));
        if is_there && socket.is_listener().is_ok_and(|yes| yes) {
            return socket.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }
    panic!("no listener at {frontend}");
}

#[tokio::test]
async fn a_dead_listener_is_reported_and_repaired_and_connections_go_on() {
    for vip in LOOPBACKS {
        let mut fixture = Fixture::new(RelayConfig::default());
        let echo = tcp_echo(vip).await;
        let frontend = fixture.serve(vip, Protocol::Tcp, &[echo]).await;
        let mut old = connect(frontend).await;
        assert_echo(&mut old, "hello").await;

        kill_listener(frontend);
        within("notice", fixture.changed.notified()).await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Draining));
        fixture.upsert(frontend, &[echo]).await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Serving));
        assert_echo(&mut connect(frontend).await, "new").await;
        assert_echo(&mut old, "still here").await;
    }
}
