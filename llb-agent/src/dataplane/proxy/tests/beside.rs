// SPDX-License-Identifier: Apache-2.0
//! The relay beside the packet plane: it listens by one socket, and knows which connections are from the
//! time when it served all clients.

use std::num::NonZeroUsize;

use tokio::sync::Semaphore;

use super::*;
use crate::model::OtherClients;

const WORKERS: usize = 3;

fn fixture() -> Fixture {
    Fixture::new(RelayConfig { workers: NonZeroUsize::new(WORKERS).unwrap(), ..RelayConfig::default() })
}

/// A frontend on a free port, which is served beside packets.
async fn stand_beside(
    fixture: &mut Fixture,
    vip: IpAddr,
    protocol: Protocol,
    backends: &[SocketAddr],
) -> Frontend {
    let frontend = Frontend { vip, port: free_port(vip, protocol), protocol };
    fixture.plane.stand_beside(frontend, &rule(backends)).await;
    frontend
}

fn sockets(fixture: &Fixture) -> usize {
    fixture.plane.sockets().unwrap().len()
}

#[tokio::test]
async fn one_socket_serves_beside_packets_and_nobody_else_binds_the_port() {
    for vip in LOOPBACKS {
        let mut fixture = fixture();
        let frontend = stand_beside(&mut fixture, vip, Protocol::Tcp, &[tcp_echo(vip).await]).await;
        assert_eq!(fixture.plane.other_clients(&frontend), Some(OtherClients::Relayed));
        assert_echo(&mut connect(frontend).await, "hello").await;
        assert_eq!(sockets(&fixture), 1);
        assert!(fixture.plane.sockets().unwrap()[0].is_beside_packets);
        assert_eq!(fixture.phase(frontend), None, "the packet plane serves it");
        assert!(!fixture.plane.has(&frontend));
        let error = std::net::TcpListener::bind(frontend.socket_address()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);

        let udp = stand_beside(&mut fixture, vip, Protocol::Udp, &[udp_backend(vip, "a").await]).await;
        assert_eq!(ask(&udp_client(udp).await, b"1").await, b"a1");

        fixture.plane.stand_beside(frontend, &rule(&[])).await;
        assert_refused(frontend).await;
        assert_eq!(fixture.plane.other_clients(&frontend), None);
        eventually("all are gone", || fixture.plane.leave_packets_alone()).await;
    }
}

#[tokio::test]
async fn only_connections_from_before_a_move_are_waited_for() {
    for vip in LOOPBACKS {
        let mut fixture = fixture();
        let backends = [tcp_echo(vip).await];
        let frontend = stand_beside(&mut fixture, vip, Protocol::Tcp, &backends).await;
        let mut first = connect(frontend).await;
        assert_echo(&mut first, "beside packets").await;

        fixture.upsert(frontend, &backends).await;
        assert_eq!(sockets(&fixture), WORKERS, "each worker has a socket now");
        assert_eq!(fixture.phase(frontend), Some(Phase::Serving));
        let mut old = connect(frontend).await;
        assert_echo(&mut old, "relayed").await;

        fixture.plane.stand_beside(frontend, &rule(&backends)).await;
        assert_eq!(fixture.phase(frontend), Some(Phase::Draining));
        let mut during = connect(frontend).await;
        assert_echo(&mut during, "accepted while handshakes may end").await;
        drop((first, old));
        eventually("one old connection is left", || fixture.metrics().connections_active.get() == 1).await;
        assert!(fixture.plane.has(&frontend), "its handshake may have begun before the move");
        during.shutdown().await.unwrap();
        within("clean end", during.read(&mut [0; 1])).await.unwrap();
        within("notice", async {
            while fixture.plane.has(&frontend) {
                fixture.changed.notified().await;
            }
        })
        .await;

        let mut new = connect(frontend).await;
        assert_echo(&mut new, "not old").await;
        assert_eq!(fixture.phase(frontend), None);
    }
}

#[tokio::test]
async fn udp_clients_are_nobodys_old_connections() {
    for vip in LOOPBACKS {
        let mut fixture = fixture();
        let backends = [udp_backend(vip, "a").await];
        let frontend = fixture.serve(vip, Protocol::Udp, &backends).await;
        let client = udp_client(frontend).await;
        assert_eq!(ask(&client, b"1").await, b"a1");
        fixture.plane.stand_beside(frontend, &rule(&backends)).await;
        assert!(!fixture.plane.has(&frontend));
        assert_eq!(ask(&client, b"2").await, b"a2");
    }
}

#[tokio::test]
async fn listeners_beyond_their_limit_are_missing_and_come_when_there_is_room() {
    for vip in LOOPBACKS {
        let mut fixture = fixture();
        let context = Arc::get_mut(&mut fixture.plane.context).unwrap();
        context.limits.beside_packets = Arc::new(Semaphore::new(1));
        let backends = [tcp_echo(vip).await];
        let first = stand_beside(&mut fixture, vip, Protocol::Tcp, &backends).await;
        let second = stand_beside(&mut fixture, vip, Protocol::Tcp, &backends).await;
        let Some(OtherClients::NotServed { why }) = fixture.plane.other_clients(&second) else {
            panic!("there is no room")
        };
        assert!(why.contains("listeners beside the packet plane"), "{why}");
        assert_eq!(fixture.plane.not_listening(), [second]);
        assert_eq!(fixture.plane.worth_another_try(), []);
        // What the relay serves alone does not count.
        fixture.serve(vip, Protocol::Tcp, &backends).await;

        fixture.plane.remove(&first);
        assert_eq!(fixture.plane.worth_another_try(), [second]);
        fixture.plane.listen_again(&second).await;
        assert_eq!(fixture.plane.not_listening(), []);
        assert_echo(&mut connect(second).await, "hello").await;
    }
}

#[tokio::test]
async fn a_port_of_another_program_is_said_and_taken_when_it_is_free() {
    for vip in LOOPBACKS {
        let mut fixture = fixture();
        let other = std::net::TcpListener::bind((vip, 0)).unwrap();
        let port = Port::new(other.local_addr().unwrap().port().into()).unwrap();
        let frontend = Frontend { vip, port, protocol: Protocol::Tcp };
        fixture.plane.stand_beside(frontend, &rule(&[tcp_echo(vip).await])).await;
        let said = fixture.plane.other_clients(&frontend).unwrap().to_string();
        assert!(said.starts_with("not served: ") && said.contains("in use by another program"), "{said}");
        drop(other);
        fixture.plane.listen_again(&frontend).await;
        assert_eq!(fixture.plane.other_clients(&frontend), Some(OtherClients::Relayed));
        assert_echo(&mut connect(frontend).await, "hello").await;
    }
}
