//! The three balancers, side by side on one host of a lab, and the servers
//! behind them. Same addresses' shape, same ports, same number of threads.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};

use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Agent, Host, Lab, Manifests, Process, wait_until};

use crate::echo;
use crate::probe::LIMIT;

/// Threads of HAProxy and worker processes of nginx; llb takes as many as the
/// machine has cores, so that is what the others get.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Ports on each balancer's address, and of the server behind each.
pub(crate) const HTTP: Ports = Ports { front: 80, back: 30080 };
pub(crate) const IPERF: Ports = Ports { front: 5201, back: 30521 };
pub(crate) const ECHO: Ports = Ports { front: 7, back: 30007 };

/// Where clients go, and where the balancer goes.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) front: u16,
    pub(crate) back: u16,
}

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Balancer {
    Llb,
    Haproxy,
    Nginx,
}

impl Balancer {
    pub(crate) const ALL: [Self; 3] = [Self::Llb, Self::Haproxy, Self::Nginx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Llb => "llb",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// Everything that runs. Field order is drop order: the lab goes last.
pub(crate) struct Stage {
    agent: Agent,
    processes: Vec<Process>,
    _echo: echo::Servers,
    _manifests: Manifests,
    lab: Lab,
}

impl Stage {
    pub(crate) fn build() -> Result<Self> {
        let lab = Lab::new()?;
        let (host, node) = (lab.balancer().clone(), lab.host("node-1").clone());
        host.ip(&format!(
            "addr add {}/24 dev {link}\naddr add {}/24 dev {link}\n",
            lab.vip(1),
            lab.vip(2),
            link = Host::LINK
        ))?;
        let echo = echo::Servers::start(&node, ECHO.back)?;
        let mut processes = vec![
            start(&node, "web", "nginx", &web_server())?,
            start(&host, "haproxy", "haproxy", &haproxy(lab.vip(1), &node))?,
            start(&host, "nginx", "nginx", &nginx_stream(lab.vip(2), &node))?,
        ];
        let mut iperf = node.command("iperf3");
        iperf.args(["--server", "--port", &IPERF.back.to_string()]);
        processes.push(node.spawn(iperf, "iperf3")?);

        let manifests = Manifests::new(&host, "manifests")?;
        manifests.write("nodes.yaml", &manifests::nodes(&[&node]))?;
        let ports = [
            PortSpec::tcp("http", HTTP.front, HTTP.back),
            PortSpec::tcp("iperf", IPERF.front, IPERF.back),
            PortSpec::tcp("echo", ECHO.front, ECHO.back),
            PortSpec::udp("udp", ECHO.front, ECHO.back),
        ];
        manifests.write("bench.yaml", &manifests::service("bench", &[lab.vip(0)], &ports))?;
        let folder = manifests.path().display().to_string();
        let agent = Agent::start(&host, &["--userspace", "--manifests", &folder])?;
        let stage = Self { agent, processes, _echo: echo, _manifests: manifests, lab };
        stage.wait_until_all_answer()?;
        Ok(stage)
    }

    pub(crate) fn balancers(&self) -> impl Iterator<Item = (Balancer, IpAddr)> {
        Balancer::ALL.into_iter().zip([self.lab.vip(0), self.lab.vip(1), self.lab.vip(2)])
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.client()
    }

    /// What all have logged, for an error.
    pub(crate) fn logs(&self) -> String {
        let mut logs = self.agent.log();
        for process in &self.processes {
            logs.push_str(&process.log_tail());
        }
        logs
    }

    fn wait_until_all_answer(&self) -> Result<()> {
        for (balancer, address) in self.balancers() {
            wait_until(LIMIT, &format!("an answer through {}", balancer.name()), || {
                let url = format!("http://{address}/");
                self.client().output(&["curl", "--silent", "--fail", "--max-time", "2", &url]).map(Some)
            })
            .with_context(|| self.logs())?;
        }
        Ok(())
    }
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

/// A tiny answer, so that the server is not what is measured.
fn web_server() -> String {
    format!(
        "daemon off;\npid PIDFILE;\nuser root;\nworker_processes {threads};\nerror_log stderr crit;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 100000000;\n\
         server {{ listen {port} reuseport backlog=4096; location / {{ return 200 ok; }} }} }}\n",
        threads = threads(),
        port = HTTP.back,
    )
}

/// TCP only: this HAProxy has no UDP.
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
    for (ports, option) in
        [(HTTP, "backlog=4096"), (IPERF, "backlog=4096"), (ECHO, "backlog=4096"), (ECHO, "udp")]
    {
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
