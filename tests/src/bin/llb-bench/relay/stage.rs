// SPDX-License-Identifier: Apache-2.0
//! The three balancers on one host of a lab, and the servers behind them. The balancers have addresses of the
//! same kind, the same ports and the same number of threads.

use std::net::IpAddr;

use anyhow::{Context, Result};

use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Agent, Host, Lab, Manifests, Process, wait_until};

use crate::echo::Sink;
use crate::probe::LIMIT;
use crate::programs::{ECHO, HTTP, IPERF, Servers, open_many_connections, start_haproxy, start_nginx_stream};

/// A balancer.
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

    /// This HAProxy has no UDP.
    pub(crate) fn has_udp(self) -> bool {
        self != Self::Haproxy
    }
}

/// Everything that runs. Fields are dropped in this order: the lab goes last.
pub(crate) struct Stage {
    agent: Agent,
    balancers: Vec<Process>,
    servers: Servers,
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
        open_many_connections(&host)?;
        let servers = Servers::start(&node, &[])?;
        let balancers =
            vec![start_haproxy(&host, lab.vip(1), &node)?, start_nginx_stream(&host, lab.vip(2), &node)?];

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
        let stage = Self { agent, balancers, servers, _manifests: manifests, lab };
        stage.wait_until_all_answer()?;
        Ok(stage)
    }

    pub(crate) fn balancers(&self) -> impl Iterator<Item = (Balancer, IpAddr)> {
        Balancer::ALL.into_iter().zip([self.lab.vip(0), self.lab.vip(1), self.lab.vip(2)])
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.client()
    }

    pub(crate) fn sink(&self) -> &Sink {
        &self.servers.sink
    }

    /// All logs, for an error.
    pub(crate) fn logs(&self) -> String {
        let mut logs = self.agent.log();
        for process in self.balancers.iter().chain(&self.servers.processes) {
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
