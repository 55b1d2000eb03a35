// SPDX-License-Identifier: Apache-2.0
//! `llb-agent flows`: who talks to which VIP, and which backend answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use llb_tests::client::{connect, http_get_on, udp_ask_on};
use llb_tests::manifests::PortSpec;
use llb_tests::{agent, wait_until};
use serde_json::Value;

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, frontend};
use crate::stage::HTTP;

const DNS: PortSpec<'static> = PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: 30053 };

/// Connections to each VIP.
const CONNECTIONS: usize = 6;

/// What is expected of a flow, by client and frontend: Service and node.
type Expected = BTreeMap<(String, String), (&'static str, String)>;

pub(crate) fn flows_are_shown_with_client_vip_and_backend_also_after_the_agent_has_died(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.serve_udp(DNS.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &[HTTP]);
    setup.serve("dns", &[setup.lab.vip(1)], &[DNS]);

    let open = |vip: IpAddr| connect(setup.client(), SocketAddr::new(vip, HTTP.port)).unwrap();
    let streams: Vec<TcpStream> = vips.iter().flat_map(|vip| (0..CONNECTIONS).map(|_| open(*vip))).collect();
    let all = streams.len();
    wait_until(LIMIT, "all connections to be shown as open", || {
        let rows = rows(&setup, &["--service", "default/web"]);
        let are_open = rows.len() == all && rows.iter().all(|row| row["state"] == "open");
        if are_open { Ok(Some(())) } else { anyhow::bail!("{rows:?}") }
    })
    .unwrap();

    // The answers tell which node it is.
    let mut expected = Expected::new();
    for mut stream in streams {
        let (client, vip) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let node = http_get_on(&mut stream, vip).unwrap().name;
        let key = (client.to_string(), frontend(vip.ip(), HTTP.port, "TCP"));
        expected.insert(key, ("default/web", node_at(&setup, &node, vip.ip(), HTTP.node_port)));
    }
    let socket = ask_dns(&setup, &mut expected);
    let shown = by_ends(&rows(&setup, &[]));
    for (key, (service, node)) in &expected {
        let row = &shown[key];
        assert_eq!((&row["service"], &row["backend"]), (&(*service).into(), &node.as_str().into()), "{row}");
    }
    let udp = rows(&setup, &["--client", &socket.local_addr().unwrap().to_string()]);
    assert_eq!(udp.len(), 1, "{udp:?}");
    assert_eq!(udp[0]["state"], "open");
    filters_hold(&setup, &expected);
    mistakes_are_told(&setup);

    setup.agent.process().kill9().unwrap();
    let left = by_ends(&rows(&setup, &[]));
    for (key, (_, node)) in &expected {
        assert_eq!(left[key]["backend"], node.as_str(), "{left:?}");
        assert!(left[key]["service"].is_null(), "{left:?}");
    }
    let error = flows(&setup, &["--service", "default/web"]).unwrap_err();
    assert!(error.contains("nobody knows the VIPs of Service default/web; name one with --vip"), "{error}");
}

/// One question, and what is expected of its flow.
fn ask_dns(setup: &Setup, expected: &mut Expected) -> UdpSocket {
    let socket = setup.client().run_inside(|| UdpSocket::bind(setup.client().at(0))).unwrap().unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let vip = setup.lab.vip(1);
    socket.connect(SocketAddr::new(vip, DNS.port)).unwrap();
    let node = udp_ask_on(&socket, "who").unwrap().name;
    let key = (socket.local_addr().unwrap().to_string(), frontend(vip, DNS.port, "UDP"));
    expected.insert(key, ("default/dns", node_at(setup, &node, vip, DNS.node_port)));
    socket
}

fn filters_hold(setup: &Setup, expected: &Expected) {
    let count = |wanted: &dyn Fn(&str, &str, &str, &str) -> bool| {
        let matching = expected
            .iter()
            .filter(|((client, frontend), (service, node))| wanted(client, frontend, service, node));
        matching.count()
    };
    let node = setup.lab.host("node-1").at(HTTP.node_port).to_string();
    let vip = setup.vip().to_string();
    let client = setup.client().at(0).ip().to_string();
    let one = expected.keys().next().unwrap().0.clone();
    for (filter, matching) in [
        (["--service", "default/dns"], count(&|_, _, service, _| service == "default/dns")),
        (["--backend", &node], count(&|_, _, _, backend| backend == node)),
        (["--vip", &vip], count(&|_, frontend, _, _| frontend.starts_with(&format!("{vip}:")))),
        (["--client", &client], count(&|from, _, _, _| from.starts_with(&format!("{client}:")))),
        (["--client", &one], count(&|from, _, _, _| from == one)),
        (["--client", "203.0.113.9"], 0),
    ] {
        assert_eq!(rows(setup, &filter).len(), matching, "{filter:?}");
    }
    let short = flows(setup, &["--service", "default/web", "--limit", "5"]).unwrap();
    assert_eq!(short.lines().count(), 1 + 5 + 1, "{short}");
    assert!(short.ends_with(&format!("... and {} flows more (--limit)\n", 2 * CONNECTIONS - 5)), "{short}");
    let summary = flows(setup, &["--summary", "-o", "json", "--vip", &vip]).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["flows"], CONNECTIONS, "{summary}");
    assert_eq!(summary["clients"][0]["name"], client.as_str(), "{summary}");
    assert_eq!(summary["services"][0], serde_json::json!({"name": "default/web", "flows": CONNECTIONS}));
    let of_backends =
        summary["backends"].as_array().unwrap().iter().map(|row| row["flows"].as_u64().unwrap());
    assert_eq!(of_backends.sum::<u64>(), CONNECTIONS as u64, "{summary}");
}

fn mistakes_are_told(setup: &Setup) {
    for (mistake, expected) in [
        (["--client", "192.0.2.0/24"], "give ADDRESS or ADDRESS:PORT"),
        (["--service", "default/none"], "this agent does not serve Service default/none"),
        (["--service", "web"], "name the Service as NAMESPACE/NAME"),
        (["--service", "../services"], "name the Service as NAMESPACE/NAME"),
        (["--limit", "0"], "0 is not in 1..=100000"),
    ] {
        let error = flows(setup, &mistake).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// Where a node serves, in the family of the VIP.
fn node_at(setup: &Setup, node: &str, vip: IpAddr, port: u16) -> String {
    let host = setup.lab.host(node);
    if vip.is_ipv4() { host.at(port) } else { host.at_v6(port) }.to_string()
}

fn rows(setup: &Setup, more: &[&str]) -> Vec<Value> {
    let text = flows(setup, &[&["-o", "json"], more].concat()).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    found["flows"].as_array().unwrap().clone()
}

fn by_ends(rows: &[Value]) -> BTreeMap<(String, String), Value> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    rows.iter().map(|row| ((text(row, "client"), text(row, "frontend")), row.clone())).collect()
}

/// What the command prints on the balancer, or why it fails.
fn flows(setup: &Setup, more: &[&str]) -> Result<String, String> {
    let (host, binary) = (setup.lab.balancer(), agent::binary().unwrap());
    let folder = host.bpf_directory();
    let mut command = vec![binary.to_str().unwrap(), "flows", "--admin", "127.0.0.1:9660"];
    command.extend(["--bpf-dir", folder.to_str().unwrap()]);
    command.extend(more);
    host.output(&command).map_err(|error| format!("{error:#}"))
}
