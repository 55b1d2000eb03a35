// SPDX-License-Identifier: Apache-2.0
//! Mode dsr and Nodes without a rule for the VIP, which route packets to the VIP back to the balancer. A Node has
//! no rule until its kube-proxy has read what llb published.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, anyhow};
use llb_tests::client::http_get;
use llb_tests::{Host, Server, manifests, wait_until};
use serde_json::Value;

use super::HTTP;
use super::dsr::take;
use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup, frontend};

/// Requests from one client: enough that both nodes get some.
const REQUESTS: usize = 20;
/// Shorter than the second after which Linux repeats a SYN.
const PATIENCE: Duration = Duration::from_millis(500);

/// With affinity, kube-proxy needs the client's address, so mode nat can't take over.
const AFFINITY: &str = "  sessionAffinity: ClientIP\n";

pub(crate) fn a_packet_that_a_node_sends_back_goes_round_no_more(plane: Plane) {
    let setup = Setup::new(plane);
    let vips = [setup.vip(), setup.vip_v6()];
    publish(&setup, &vips, AFFINITY);
    let servers = serve_on(&setup, &vips, &NODES);
    wait_for_nodes(&setup, ["active", "active"]);
    // The nodes' kube-proxies forget the Service.
    servers.into_iter().for_each(Server::stop);
    for (node, vip) in NODES.iter().flat_map(|node| vips.map(|vip| (*node, vip))) {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        setup.lab.host(node).ip(&format!("addr del {vip}/{bits} dev lo\n")).unwrap();
    }
    for vip in vips {
        let address = SocketAddr::new(vip, HTTP.port);
        let before = counts(&setup, address).unwrap();
        let host = setup.client();
        let connected = host.run_inside(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
        assert!(connected.is_err(), "no node has a rule");
        let what = format!("all packets to {vip} to come back");
        let sent = wait_until(LIMIT, &what, || {
            let now = counts(&setup, address)?;
            let [sent, returned] = [now[0] - before[0], now[1] - before[1]];
            if sent == returned && sent > 0 { Ok(Some(sent)) } else { Err(anyhow!("{returned} of {sent}")) }
        });
        // One SYN; on a slow machine its repetition, too.
        assert!(sent.unwrap() <= 2, "packets went round");
    }
}

pub(crate) fn a_new_service_answers_before_nodes_have_rules_for_its_vip(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    publish(&setup, &vips, "");
    let balancer: [IpAddr; 2] = [setup.lab.balancer().ipv4().into(), setup.lab.balancer().ipv6().into()];
    let expect_nat = |host: &Host| {
        for (vip, balancer) in vips.into_iter().zip(balancer) {
            let seen = peers(host, SocketAddr::new(vip, HTTP.port)).unwrap();
            assert_eq!(seen, vec![balancer; REQUESTS], "{} at {vip}", host.name());
        }
    };
    expect_nat(setup.client());
    // A node may be a client of another one. (Packets from its own address it refuses.)
    let [first, second] = NODES.map(|node| setup.lab.host(node));
    setup.manifests.write("nodes.yaml", &manifests::nodes(&[second])).unwrap();
    for vip in vips {
        let name = frontend(vip, HTTP.port, HTTP.protocol);
        let addresses = [first.ipv4().to_string(), first.ipv6().to_string()];
        let is_gone = |state: &Value| {
            let backends = state["observed"]["frontends"][&name]["rule"]["backends"].to_string();
            backends.contains(':') && !addresses.iter().any(|address| backends.contains(address))
        };
        setup.agent.wait_for_state(LIMIT, "only node-2 in use", is_gone).unwrap();
    }
    expect_nat(first);

    // Now the nodes get their rules, and see the client itself.
    let _servers = serve_on(&setup, &vips, &NODES);
    let client: [IpAddr; 2] = [setup.client().ipv4().into(), setup.client().ipv6().into()];
    for (vip, client) in vips.into_iter().zip(client) {
        let seen = peers(setup.client(), SocketAddr::new(vip, HTTP.port)).unwrap();
        assert_eq!(seen, vec![client; REQUESTS], "{vip}");
    }
}

pub(crate) fn clients_wait_until_a_node_has_a_rule_and_none_is_lost(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--at-stop", "keep"]);
    let vips = [setup.vip(), setup.vip_v6()];
    publish(&setup, &vips, AFFINITY);
    wait_until(LIMIT, "both nodes to send canaries back", || {
        let back = setup.agent.metric("llb_packet_canaries_total{result=\"sent_back\"}")?;
        if back >= 8 { Ok(Some(())) } else { Err(anyhow!("{back} came back")) }
    })
    .unwrap();
    wait_for_nodes(&setup, ["waiting", "waiting"]);
    let ask = |vip| http_get(setup.client(), SocketAddr::new(vip, HTTP.port));
    let servers = std::thread::scope(|scope| {
        let early = vips.map(|vip| scope.spawn(move || ask(vip)));
        let dropped = "llb_packet_reasons_total{reason=\"no_live_backend\"}";
        wait_until(LIMIT, "the clients to knock", || Ok((setup.agent.metric(dropped)? >= 2).then_some(())))
            .unwrap();
        for vip in vips {
            let [sent, returned] = counts(&setup, SocketAddr::new(vip, HTTP.port)).unwrap();
            assert_eq!([sent, returned], [0, 0], "a client's packet went to a node without a rule");
        }
        let servers = serve_on(&setup, &vips, &NODES[..1]);
        for early in early {
            assert_eq!(early.join().unwrap().unwrap().name, NODES[0]);
        }
        servers
    });
    // Beside a node that has a rule, one without a rule gets no clients.
    wait_for_nodes(&setup, ["active", "waiting"]);
    for vip in vips.iter().cycle().take(REQUESTS) {
        assert_eq!(ask(*vip).unwrap().name, NODES[0]);
    }
    let later = serve_on(&setup, &vips, &NODES[1..]);
    wait_for_nodes(&setup, ["active", "active"]);

    // A new agent asks no Node that has clients.
    setup.agent.terminate().unwrap();
    setup.restart_agent();
    for vip in vips {
        setup.wait_serving(vip, HTTP.port, HTTP.protocol);
    }
    wait_for_nodes(&setup, ["active", "active"]);
    let metrics = setup.agent.get("/metrics").unwrap();
    let asked = metrics.lines().filter(|line| line.starts_with("llb_packet_canaries_total{"));
    let asked: Vec<&str> = asked.filter(|line| !line.ends_with(" 0")).collect();
    assert_eq!(asked, [""; 0]);
    drop((servers, later));
}

/// Waits until both families show the nodes in these states.
fn wait_for_nodes(setup: &Setup, states: [&str; 2]) {
    wait_until(LIMIT, &format!("nodes to be {states:?}"), || {
        let explained = setup.agent.get("/explain/default/new")?;
        let has = |(node, state): (&&str, &str)| {
            let host = setup.lab.host(node);
            let shows = |address: SocketAddr| explained.contains(&format!("{address}  {state}, "));
            shows(host.at(HTTP.node_port)) && shows(host.at_v6(HTTP.node_port))
        };
        if NODES.iter().zip(states).all(has) { Ok(Some(())) } else { Err(anyhow!("{explained}")) }
    })
    .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", setup.agent.log()));
}

/// Gives these nodes their rules for the VIPs, and serves HTTP there.
fn serve_on(setup: &Setup, vips: &[IpAddr], nodes: &[&str]) -> Vec<Server> {
    let serve = |(node, vip): (&str, IpAddr)| {
        let host = setup.lab.host(node);
        take(host, vip);
        Server::http(host, SocketAddr::new(vip, HTTP.port), node).unwrap()
    };
    nodes.iter().flat_map(|node| vips.iter().map(|vip| (*node, *vip))).map(serve).collect()
}

/// Publishes a Service in mode dsr, with more lines in its `spec`, before any node has a rule for its VIPs.
fn publish(setup: &Setup, vips: &[IpAddr], spec: &str) {
    for node in NODES {
        let forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
        setup.lab.host(node).output(&["sysctl", "-q", "-w", forward[0], forward[1]]).unwrap();
    }
    let yaml = manifests::annotated_service("new", vips, &[HTTP], "llb.dev/mode: dsr");
    setup.manifests.write("new.yaml", &yaml.replace("spec:\n", &format!("spec:\n{spec}"))).unwrap();
    for vip in vips {
        setup.wait_serving(*vip, HTTP.port, HTTP.protocol);
    }
}

/// The client's address as the servers see it, in a row of requests.
fn peers(client: &Host, frontend: SocketAddr) -> Result<Vec<IpAddr>> {
    (0..REQUESTS).map(|_| Ok(http_get(client, frontend)?.peer.ip())).collect()
}

/// Packets to the backends of a frontend, and packets that came back.
fn counts(setup: &Setup, frontend: SocketAddr) -> Result<[u64; 2]> {
    let metrics = setup.agent.get("/metrics")?;
    let sum = |of: &dyn Fn(&str) -> bool| -> u64 {
        let values = metrics.lines().filter(|line| of(line)).filter_map(|line| line.rsplit(' ').next());
        values.filter_map(|value| value.parse::<u64>().ok()).sum()
    };
    let (name, direction) = (format!("frontend=\"{frontend}/TCP\""), "direction=\"forward\"");
    let is_sent = |line: &str| {
        line.starts_with("llb_backend_packets_total{") && line.contains(&name) && line.contains(direction)
    };
    let is_returned = |line: &str| line.starts_with("llb_packet_reasons_total{reason=\"returned\"}");
    Ok([sum(&is_sent), sum(&is_returned)])
}
