// SPDX-License-Identifier: Apache-2.0
//! Configurations of other programs: HAProxy and nginx stream as balancers, and the servers behind all
//! balancers. They get as many threads as llb takes: one for each core.

use std::fs;
use std::net::{IpAddr, SocketAddrV4};

use anyhow::Result;

use llb_tests::{Host, Process};

use crate::echo;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The ports of each balancer, and of the servers behind them.
pub(crate) const HTTP: Ports = Ports { front: 80, back: 30080 };
pub(crate) const IPERF: Ports = Ports { front: 5201, back: 30521 };
pub(crate) const ECHO: Ports = Ports { front: 7, back: 30007 };
/// For UDP only.
pub(crate) const SINK: Ports = Ports { front: 9, back: 30009 };

/// The port that clients use, and the port that the balancer uses.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) front: u16,
    pub(crate) back: u16,
}

/// All servers of one node. They listen on the ports behind balancers, and also on the clients' ports if
/// packets come without a balancer, or by one that does not change ports.
pub(crate) struct Servers {
    pub(crate) processes: Vec<Process>,
    pub(crate) sink: echo::Sink,
}

impl Servers {
    /// `own`: addresses besides the node's first one to which clients send. If there are none, only the ports
    /// behind balancers are served.
    pub(crate) fn start(node: &Host, own: &[IpAddr]) -> Result<Self> {
        let both =
            |ports: Ports| if own.is_empty() { vec![ports.back] } else { vec![ports.back, ports.front] };
        let mut addresses = vec![IpAddr::V4(node.ipv4())];
        addresses.extend(own);
        let sink = echo::Sink::new(node);
        for port in both(ECHO) {
            echo::start(node, &addresses, port)?;
        }
        for port in both(SINK) {
            sink.start(&addresses, port)?;
        }
        let mut processes = vec![start(node, "web", "nginx", &web_server(&both(HTTP)))?];
        for port in both(IPERF) {
            let mut iperf = node.command("iperf3");
            iperf.args(["--server", "--port", &port.to_string()]);
            processes.push(node.spawn(iperf, &format!("iperf3-{port}"))?);
        }
        Ok(Self { processes, sink })
    }
}

pub(crate) fn start_haproxy(host: &Host, address: IpAddr, node: &Host) -> Result<Process> {
    start(host, "haproxy", "haproxy", &haproxy(address, node))
}

pub(crate) fn start_nginx_stream(host: &Host, address: IpAddr, node: &Host) -> Result<Process> {
    start(host, "nginx", "nginx", &nginx_stream(address, node))
}

/// For questions over UDP, each with one answer.
pub(crate) fn start_nginx_questions(
    host: &Host,
    server: SocketAddrV4,
    nodes: &[Host],
    node_port: u16,
) -> Result<Process> {
    let share = 100 / nodes.len();
    let nodes: String = nodes
        .iter()
        .enumerate()
        .map(|(n, node)| {
            let share = if n == 0 { "*".to_owned() } else { format!("{share}%") };
            format!("{share} {}:{node_port}; ", node.ipv4())
        })
        .rev()
        .collect();
    let configuration = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off;\npid PIDFILE;\nuser root;\nworker_processes {};\nworker_rlimit_nofile 200000;\n\
         error_log stderr crit;\nevents {{ worker_connections 65536; }}\n\
         stream {{ split_clients $remote_addr$remote_port $node {{ {nodes}}}\n\
         server {{ listen {server} udp reuseport; proxy_pass $node; proxy_responses 1; proxy_timeout 5s; }} }}\n",
        threads()
    );
    start(host, "nginx", "nginx", &configuration)
}

/// Lets a host open as many connections as administrators of proxies let theirs: by all ports, and by those that wait for
/// the end of an earlier connection.
pub(crate) fn open_many_connections(host: &Host) -> Result<()> {
    for setting in ["ip_local_port_range=1024 65535", "tcp_tw_reuse=1"] {
        host.output(&["sysctl", "-qw", &format!("net.ipv4.{setting}")])?;
    }
    Ok(())
}

/// Makes a host a router. `ip_forward` comes first, because it resets the others.
pub(crate) fn forward(host: &Host) -> Result<()> {
    for setting in [
        "ip_forward=1",
        "conf.all.send_redirects=0",
        "conf.eth0.send_redirects=0",
        "conf.all.rp_filter=0",
        "conf.eth0.rp_filter=0",
    ] {
        host.output(&["sysctl", "-qw", &format!("net.ipv4.{setting}")])?;
    }
    Ok(())
}

fn start(host: &Host, name: &str, program: &str, configuration: &str) -> Result<Process> {
    let file = host.directory().join(format!("{name}.conf"));
    let pid_file = host.directory().join(format!("{name}.pid"));
    fs::write(&file, configuration.replace("PIDFILE", &pid_file.display().to_string()))?;
    let mut command = host.command(program);
    match program {
        "haproxy" => command.arg("-db").arg("-f").arg(&file),
        _ => command.args(["-e", "stderr", "-c"]).arg(&file),
    };
    host.spawn(command, name)
}

/// The answer is tiny, so the server does not limit what is measured.
fn web_server(ports: &[u16]) -> String {
    let listen: String = ports.iter().map(|port| format!("listen {port} reuseport backlog=4096; ")).collect();
    format!(
        "daemon off;\npid PIDFILE;\nuser root;\nworker_processes {threads};\nerror_log stderr crit;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 100000000;\n\
         server {{ {listen}location / {{ return 200 ok; }} }} }}\n",
        threads = threads(),
    )
}

/// For TCP only: this HAProxy has no UDP.
fn haproxy(address: IpAddr, node: &Host) -> String {
    let mut text = format!(
        "global\n  nbthread {}\n  maxconn 4096\ndefaults\n  mode tcp\n  option splice-auto\n  \
         timeout connect 3s\n  timeout client 60s\n  timeout server 60s\n",
        threads()
    );
    for (name, ports) in [("http", HTTP), ("iperf", IPERF), ("echo", ECHO)] {
        text.push_str(&format!(
            "listen {name}\n  bind {address}:{} backlog 4096\n  server node {}:{}\n",
            ports.front,
            node.ipv4(),
            ports.back
        ));
    }
    text
}

fn nginx_stream(address: IpAddr, node: &Host) -> String {
    let mut servers = String::new();
    for (ports, option) in [
        (HTTP, "backlog=4096"),
        (IPERF, "backlog=4096"),
        (ECHO, "backlog=4096"),
        (ECHO, "udp"),
        (SINK, "udp"),
    ] {
        servers.push_str(&format!(
            "server {{ listen {address}:{} {option} reuseport; proxy_pass {}:{}; proxy_timeout 60s; }}\n",
            ports.front,
            node.ipv4(),
            ports.back
        ));
    }
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off;\npid PIDFILE;\nuser root;\nworker_processes {};\n\n\
         error_log stderr crit;\nevents {{ worker_connections 8192; }}\nstream {{\n{servers}}}\n",
        threads()
    )
}
