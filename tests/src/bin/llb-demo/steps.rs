// SPDX-License-Identifier: Apache-2.0
//! What the demo shows. Each step runs real commands and checks their output. The first check that fails ends
//! the demo.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};

use llb_tests::{Agent, Host, Lab, Manifests, Server, wait_until};

use crate::screen;

/// The manifests, as a user would write them.
const NODES: &str = include_str!("../../../demo/nodes.yaml");
const WEB: &str = include_str!("../../../demo/web.yaml");
const DNS: &str = include_str!("../../../demo/dns.yaml");

/// The VIP in these manifests.
const VIP: &str = "192.0.2.100";

/// The nodePorts in these manifests.
const WEB_NODE_PORT: u16 = 30080;
const DNS_NODE_PORT: u16 = 30053;

/// The nodes in these manifests.
const NODE_NAMES: [&str; 2] = ["node-1", "node-2"];

/// Time from a changed manifest to a changed link: less than a second, in an emulated machine ten times as long.
const LIMIT: Duration = Duration::from_secs(30);

/// Enough requests for both nodes to get some: all go to one node in 1 of 2^19 runs.
const FEW_REQUESTS: usize = 20;

/// Requests while a node dies, and the number of answers after which it dies.
const MANY_REQUESTS: usize = 300;
const ANSWERS_BEFORE_DEATH: usize = 100;

/// Time for all of these requests; one takes about 10 ms, in an emulated machine on a busy one half a second.
const MANY_REQUESTS_LIMIT: Duration = Duration::from_secs(240);

/// A lab with the agent and the servers. Fields are dropped in this order: the lab goes last.
pub(crate) struct Stage {
    agent: Agent,
    servers: BTreeMap<&'static str, Vec<Server>>,
    manifests: Manifests,
    lab: Lab,
}

impl Stage {
    /// Builds the lab and starts everything in it.
    pub(crate) fn build() -> Result<Self> {
        let lab = Lab::new()?;
        let (client, balancer) = (lab.client(), lab.balancer());
        let [node_1, node_2] = NODE_NAMES.map(|node| lab.host(node));
        screen::say(&format!(
            "A lab of four hosts. Each is a network namespace; no route leads out of the lab:\n\n   \
             client {}    balancer {}    node-1 {}    node-2 {}\n   \
             ------+----------------------+-------------------+-------------------+------",
            client.ipv4(),
            balancer.ipv4(),
            node_1.ipv4(),
            node_2.ipv4(),
        ));
        let mut servers = BTreeMap::new();
        for name in NODE_NAMES {
            servers.insert(name, start_servers(lab.host(name))?);
        }
        screen::say(&format!(
            "\nEach node runs a web server on port {WEB_NODE_PORT} and a name server on port {DNS_NODE_PORT};\n\
             both answer with the name of their node and the client address that they see."
        ));
        let manifests = Manifests::new(balancer, "manifests")?;
        manifests.write("nodes.yaml", NODES)?;
        let folder = manifests.path().display().to_string();
        screen::say(&format!(
            "\nThe agent serves the manifests in {folder}, called \"manifests/\" below.\n\
             At first they have both nodes and no Service. (Two flags that keep the agent's own files in the lab\n\
             are not shown.)\n"
        ));
        screen::command("balancer", "cp tests/demo/nodes.yaml manifests/");
        screen::command("balancer", "llb-agent --linkdevice eth0 --manifests manifests/ &");
        let agent = Agent::start(balancer, &["--manifests", &folder])?;
        Ok(Self { agent, servers, manifests, lab })
    }

    /// Runs all steps. With `keep` it leaves out the last one, after which there would be nothing left to try.
    pub(crate) fn play(&mut self, keep: bool) -> Result<()> {
        self.vip_appears()?;
        self.requests_reach_both_nodes()?;
        self.a_node_dies()?;
        self.a_second_service_shares_the_vip()?;
        if keep { Ok(()) } else { self.the_address_goes_with_the_last_service() }
    }

    /// Says what to try by hand while everything runs.
    pub(crate) fn explain(&self) {
        let at = |host: &str| format!("nsenter --net={}", self.lab.host(host).namespace().display());
        screen::say(&format!(
            "\nEverything keeps running until you press Ctrl-C, which removes it. Try this as root in another terminal:\n\n  \
             {client} curl http://{VIP}/\n  \
             {balancer} ip -br addr show eth0\n  \
             {balancer} curl -s http://127.0.0.1:9660/state\n  \
             {balancer} ss -lntup\n  \
             $EDITOR {manifests}/web.yaml\n  \
             tail -f {log}/agent-balancer.log\n",
            client = at("client"),
            balancer = at("balancer"),
            manifests = self.manifests.path().display(),
            log = self.lab.directory().display(),
        ));
    }

    fn vip_appears(&mut self) -> Result<()> {
        screen::step(1, "A Service of type LoadBalancer is created: its VIP appears on the link");
        let before = self.shell("balancer", "ip -br addr show eth0")?;
        ensure!(!before.contains(VIP), "{VIP} is on the link before there is a Service");
        screen::command("balancer", "cp tests/demo/web.yaml manifests/");
        self.manifests.write("web.yaml", WEB)?;
        self.wait_for_vip(true)?;
        let after = self.shell("balancer", "ip -br addr show eth0")?;
        ensure!(after.contains(VIP), "{VIP} is gone again");
        screen::passed(&format!("{VIP} is on eth0"));
        Ok(())
    }

    fn requests_reach_both_nodes(&self) -> Result<()> {
        screen::step(2, "Requests to the VIP reach both nodes");
        self.wait_for_served("80/TCP")?;
        self.shell("client", &format!("curl -sS --max-time 5 http://{VIP}/"))?;
        let counts = self.shell(
            "client",
            &format!(
                "for i in $(seq {FEW_REQUESTS}); do curl -sS --max-time 5 http://{VIP}/; done | cut -d' ' -f1 | sort | uniq -c"
            ),
        )?;
        let counts = parse_counts(&counts);
        let total: usize = counts.values().sum();
        ensure!(total == FEW_REQUESTS, "{total} answers to {FEW_REQUESTS} requests");
        for node in NODE_NAMES {
            ensure!(counts.contains_key(node), "{node} got no request");
        }
        screen::passed(&format!("{FEW_REQUESTS} of {FEW_REQUESTS} requests were answered, by both nodes"));
        Ok(())
    }

    fn a_node_dies(&mut self) -> Result<()> {
        screen::step(3, "The servers of a node stop while requests continue");
        let client = self.lab.client();
        let script = format!(
            "for i in $(seq {MANY_REQUESTS}); do curl -s --max-time 5 http://{VIP}/ || echo FAILED; done"
        );
        screen::command("client", &script);
        let mut sh = client.command("sh");
        sh.args(["-c", &script]);
        let mut requests = client.spawn(sh, "requests")?;
        wait_until(MANY_REQUESTS_LIMIT, "the first answers", || {
            Ok((requests.log().lines().count() >= ANSWERS_BEFORE_DEATH).then_some(()))
        })?;
        if let Some(servers) = self.servers.remove("node-1") {
            servers.into_iter().for_each(Server::stop);
        }
        screen::event(&format!(
            "after {} answers: the servers of node-1 stop",
            requests.log().lines().count()
        ));
        requests.wait_exit(MANY_REQUESTS_LIMIT)?;
        let log = requests.log();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for line in log.lines() {
            *counts.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
        }
        for (who, count) in &counts {
            screen::output(&format!("{count:7} {who}"));
        }
        let answered: usize = NODE_NAMES.iter().filter_map(|node| counts.get(node)).sum();
        ensure!(
            answered == MANY_REQUESTS,
            "{} of {MANY_REQUESTS} requests failed; the agent's log:\n{}",
            MANY_REQUESTS.abs_diff(answered),
            self.agent.log()
        );
        screen::passed(&format!("0 of {MANY_REQUESTS} requests failed"));
        self.servers.insert("node-1", start_servers(self.lab.host("node-1"))?);
        screen::event("the servers of node-1 are back");
        Ok(())
    }

    fn a_second_service_shares_the_vip(&mut self) -> Result<()> {
        screen::step(4, "A second Service shares the VIP: port 53, UDP and TCP");
        screen::command("balancer", "cp tests/demo/dns.yaml manifests/");
        self.manifests.write("dns.yaml", DNS)?;
        self.wait_for_served("53/UDP")?;
        self.wait_for_served("53/TCP")?;
        let script = format!(
            "timeout 5 bash -c 'exec 3<>/dev/udp/{VIP}/53; echo \"where is example.com\" >&3; head -n 1 <&3'"
        );
        let answer = self.shell("client", &script)?;
        ensure!(answer.contains("where is example.com"), "no answer over UDP");
        let answer = self.shell("client", &format!("curl -sS --max-time 5 http://{VIP}:53/"))?;
        ensure!(answer.starts_with("node-"), "no answer over TCP");
        let answer = self.shell("client", &format!("curl -sS --max-time 5 http://{VIP}/"))?;
        ensure!(answer.starts_with("node-"), "no answer from the first Service");
        screen::passed(&format!("{VIP} serves 80/TCP of `web` and 53/UDP and 53/TCP of `dns`"));
        Ok(())
    }

    fn the_address_goes_with_the_last_service(&mut self) -> Result<()> {
        screen::step(5, "The Services are deleted: the VIP is removed with the last one");
        screen::command("balancer", "rm manifests/web.yaml");
        self.manifests.remove("web.yaml")?;
        wait_until(LIMIT, "port 80 to be closed", || {
            let state = self.agent.state()?;
            Ok(state["observed"]["frontends"][format!("{VIP}:80/TCP")].is_null().then_some(()))
        })?;
        let refused = format!("curl -sS --max-time 5 http://{VIP}/ 2>&1 || true");
        let answer = self.shell("client", &refused)?;
        ensure!(!answer.starts_with("node-"), "the deleted Service is still served");
        let between = self.shell("balancer", "ip -br addr show eth0")?;
        ensure!(between.contains(VIP), "the VIP is gone, but `dns` needs it");
        screen::passed("`web` is gone; the VIP stays because `dns` needs it");

        screen::command("balancer", "rm manifests/dns.yaml");
        self.manifests.remove("dns.yaml")?;
        self.wait_for_vip(false)?;
        let after = self.shell("balancer", "ip -br addr show eth0")?;
        ensure!(!after.contains(VIP), "the VIP came back");
        screen::passed("the VIP is gone");

        screen::command("balancer", "kill %1   # the agent");
        self.agent.terminate()?;
        let status = self.agent.wait_exit()?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", self.agent.log());
        screen::passed("the agent has ended, with exit status 0");
        Ok(())
    }

    /// Prints a command, runs it and prints its output.
    fn shell(&self, host: &str, script: &str) -> Result<String> {
        screen::command(host, script);
        let output = self.lab.host(host).output(&["sh", "-c", script])?;
        screen::output(&output);
        Ok(output)
    }

    fn wait_for_vip(&self, present: bool) -> Result<()> {
        let balancer = self.lab.balancer();
        wait_until(LIMIT, &format!("{VIP} to {} eth0", if present { "be on" } else { "leave" }), || {
            let addresses = balancer.addresses()?;
            let found = addresses.iter().any(|address| address.starts_with(&format!("{VIP}/")));
            if found == present { Ok(Some(())) } else { bail!("{addresses:?}") }
        })
        .map_err(|error| anyhow!("{error:#}\nthe agent's log:\n{}", self.agent.log()))
    }

    fn wait_for_served(&self, port_and_protocol: &str) -> Result<()> {
        let frontend = format!("{VIP}:{port_and_protocol}");
        self.agent.wait_for_state(LIMIT, &format!("{frontend} to be served"), |state| {
            state["observed"]["frontends"][&frontend]["phase"] == "serving"
        })?;
        Ok(())
    }
}

fn start_servers(node: &Host) -> Result<Vec<Server>> {
    Ok(vec![
        Server::http(node, node.at(WEB_NODE_PORT), node.name())?,
        Server::udp(node, node.at(DNS_NODE_PORT), node.name())?,
        Server::http(node, node.at(DNS_NODE_PORT), node.name())?,
    ])
}

/// Parses the lines of `uniq -c`.
fn parse_counts(text: &str) -> BTreeMap<&str, usize> {
    text.lines()
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(count, what)| Some((what, count.parse().ok()?)))
        .collect()
}
