// SPDX-License-Identifier: Apache-2.0
//! What one namespace can have of the relay's descriptors, connections and sessions,
//! over real sockets.

use std::num::NonZeroUsize;

use super::super::metrics::Refusal;
use super::super::namespace_share::NamespaceShares;
use super::*;
use crate::config::NamespaceShare;
use crate::model::ProblemReason;

fn of_namespace(namespace: &str, backends: &[SocketAddr]) -> Arc<Rule> {
    Arc::new(Rule { service: ServiceName::new(namespace, "web"), ..Rule::clone(&rule(backends)) })
}

/// Serves a new frontend for a Service of `namespace`.
async fn serve(fixture: &mut Fixture, vip: IpAddr, namespace: &str, backends: &[SocketAddr]) -> Frontend {
    let frontend = fixture.serve(vip, Protocol::Tcp, backends).await;
    fixture.plane.upsert(frontend, &of_namespace(namespace, backends)).await.unwrap();
    frontend
}

#[tokio::test]
async fn one_namespace_gets_half_of_the_connections_and_others_keep_theirs() {
    for vip in LOOPBACKS {
        let four = NonZeroUsize::new(4).unwrap();
        let mut fixture = Fixture::new(RelayConfig { max_connections: four, ..RelayConfig::default() });
        let backends = [tcp_echo(vip).await];
        let [first, second] = [
            serve(&mut fixture, vip, "shop", &backends).await,
            serve(&mut fixture, vip, "shop", &backends).await,
        ];
        let other = serve(&mut fixture, vip, "crm", &backends).await;
        let mut open = vec![connect(first).await, connect(second).await];
        for client in &mut open {
            assert_echo(client, "hello").await;
        }
        assert_turned_away(first).await;
        assert_eq!(fixture.metrics().refusals(Protocol::Tcp, Refusal::NamespaceShare).get(), 1);
        let problems = fixture.plane.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].subject.to_string(), "Namespace shop");
        within("the loop is woken up", fixture.changed.notified()).await;

        assert_echo(&mut connect(other).await, "hello").await;
        assert_echo(&mut open[0], "still here").await;

        open.clear();
        eventually("the share is free again", || fixture.plane.problems().is_empty()).await;
        assert_echo(&mut connect(first).await, "next").await;
    }
}

#[tokio::test]
async fn one_namespace_gets_half_of_the_descriptors_and_others_can_listen() {
    for vip in LOOPBACKS {
        let one = NonZeroUsize::MIN;
        let mut fixture = Fixture::new(RelayConfig { workers: one, ..RelayConfig::default() });
        let shares = NamespaceShares::of_amounts([12, 8, 8], NamespaceShare::default(), Arc::default());
        Arc::get_mut(&mut fixture.plane.context).unwrap().limits.namespaces = shares;
        let backends = [tcp_echo(vip).await];
        let shop = of_namespace("shop", &backends);
        let mut served = Vec::new();
        for _ in 0..6 {
            served.push(serve(&mut fixture, vip, "shop", &backends).await);
        }
        let protocol = Protocol::Tcp;
        let last = Frontend { vip, port: free_port(vip, protocol), protocol };
        let error = fixture.plane.upsert(last, &shop).await.unwrap_err();
        assert_eq!(error.reason(), ProblemReason::NamespaceLimit, "{error}");
        assert_eq!(fixture.phase(last), None);
        let other = serve(&mut fixture, vip, "crm", &backends).await;
        assert_echo(&mut connect(other).await, "hello").await;

        // A frontend that is removed, or goes to another namespace, makes room.
        fixture.plane.remove(&served[0]);
        fixture.plane.upsert(last, &shop).await.unwrap();
        for moved in &served[1..3] {
            fixture.plane.upsert(*moved, &of_namespace("crm", &backends)).await.unwrap();
        }
        assert_echo(&mut connect(last).await, "hello").await;

        // A frontend that goes to another plane and comes back still counts: shop has room for two more.
        eventually("no connection", || fixture.metrics().connections_active.get() == 0).await;
        fixture.plane.stand_beside(served[3], &shop).await;
        fixture.plane.upsert(served[3], &shop).await.unwrap();
        for _ in 0..2 {
            serve(&mut fixture, vip, "shop", &backends).await;
        }
        let more = Frontend { vip, port: free_port(vip, protocol), protocol };
        let error = fixture.plane.upsert(more, &shop).await.unwrap_err();
        assert_eq!(error.reason(), ProblemReason::NamespaceLimit, "{error}");
    }
}

#[tokio::test]
async fn one_namespace_gets_half_of_the_udp_sessions() {
    for vip in LOOPBACKS {
        let two = NonZeroUsize::new(2).unwrap();
        let mut fixture = Fixture::new(RelayConfig { max_udp_sessions: two, ..RelayConfig::default() });
        let backends = [udp_backend(vip, "a").await];
        let shop = fixture.serve(vip, Protocol::Udp, &backends).await;
        let crm = fixture.serve(vip, Protocol::Udp, &backends).await;
        fixture.plane.upsert(crm, &of_namespace("crm", &backends)).await.unwrap();
        assert_eq!(ask(&udp_client(shop).await, b"1").await, b"a1");
        let refused = udp_client(shop).await;
        refused.send(b"2").await.unwrap();
        let refusals = fixture.metrics().refusals(Protocol::Udp, Refusal::NamespaceShare);
        eventually("the datagram is dropped", || refusals.get() == 1).await;
        assert_eq!(ask(&udp_client(crm).await, b"3").await, b"a3");
    }
}
