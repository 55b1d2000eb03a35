// SPDX-License-Identifier: Apache-2.0
//! What every case has: a namespace, a balancer host and VIPs of its own, and
//! the questions that a user would ask. What the answers must be is up to the case.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use llb_tests::client::{self, Answer};
use llb_tests::cluster::Cluster;
use llb_tests::{Agent, Host, Lab, Server, wait_until};
use serde_json::{Value, json};

/// For whatever goes through Kubernetes. After an outage of the API server its
/// own controllers ask for it again after up to a minute (client-go's back-off:
/// 30 s, and as much again at random).
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// For what must not come about: as long as everything else takes, several times over.
pub(crate) const QUIET: Duration = Duration::from_millis(700);

/// The port of the echo servers on every node.
pub(crate) const ECHO_PORT: u16 = 8888;

/// VIPs that one case may use.
const VIPS_PER_CASE: u8 = 4;

/// A few, so that both nodes have most likely been asked, and neither may fail.
const REQUESTS: usize = 12;

/// One case and its part of the shared cluster.
pub(crate) struct Case<'a> {
    pub(crate) lab: &'a mut Lab,
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) namespace: String,
    pub(crate) balancer: Host,
    first_vip: u8,
}

impl<'a> Case<'a> {
    pub(crate) fn new(number: u8, name: &str, lab: &'a mut Lab, cluster: &'a mut Cluster) -> Result<Self> {
        let balancer = lab.add_host(&format!("balancer-{number}"))?;
        let namespace = name.rsplit("::").next().unwrap_or(name).replace('_', "-");
        cluster.kubectl(&["create", "namespace", &namespace])?;
        Ok(Self { lab, cluster, namespace, balancer, first_vip: number * VIPS_PER_CASE })
    }

    /// The `index`-th IPv4 VIP of this case.
    pub(crate) fn vip(&self, index: u8) -> IpAddr {
        assert!(index < VIPS_PER_CASE, "a case has {VIPS_PER_CASE} VIPs");
        self.lab.vip(self.first_vip + index)
    }

    /// The `index`-th IPv6 VIP of this case.
    pub(crate) fn vip_v6(&self, index: u8) -> IpAddr {
        assert!(index < VIPS_PER_CASE, "a case has {VIPS_PER_CASE} VIPs");
        self.lab.vip_v6(self.first_vip + index)
    }

    // === The agent ===

    /// An agent with its own ServiceAccount, ready.
    pub(crate) fn agent(&self, flags: &[&str]) -> Result<Agent> {
        let kubeconfig = self.cluster.agent_kubeconfig().display().to_string();
        let common = ["--kubeconfig", &kubeconfig, "--drain-timeout", "5s"];
        Agent::start(&self.balancer, &[&common, flags].concat())
    }

    // === Objects ===

    /// Pods with label `app=echo` on these nodes.
    pub(crate) fn add_echo_pods(&self, nodes: &[&str]) -> Result<()> {
        nodes.iter().try_for_each(|node| self.cluster.add_pod(&self.namespace, "echo", node))
    }

    /// Applies a Service of type LoadBalancer for `app=echo`; `spec` comes on top.
    pub(crate) fn apply_service(&self, name: &str, spec: &Value) -> Result<()> {
        self.apply_service_in(&self.namespace, name, spec)
    }

    /// As [`Case::apply_service`], in another namespace.
    pub(crate) fn apply_service_in(&self, namespace: &str, name: &str, spec: &Value) -> Result<()> {
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "selector": {"app": "echo"}, "ports": [{"port": ECHO_PORT}]},
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            service["spec"][field] = value.clone();
        }
        self.cluster.apply(namespace, &service.to_string())
    }

    /// `kubectl` in this case's namespace.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["--namespace", &self.namespace], arguments].concat())
    }

    /// `kubectl patch service`, as merge patch.
    pub(crate) fn patch_service(&self, name: &str, patch: &Value) -> Result<()> {
        self.kubectl(&["patch", "service", name, "--type=merge", "-p", &patch.to_string()]).map(drop)
    }

    /// The Service as the API has it.
    pub(crate) fn service(&self, name: &str) -> Result<Value> {
        self.cluster.get(&self.namespace, &["service", name])
    }

    /// Waits until the status of the Service has exactly these addresses.
    pub(crate) fn wait_for_status(&self, name: &str, vips: &[IpAddr]) -> Result<()> {
        let wanted: BTreeSet<IpAddr> = vips.iter().copied().collect();
        wait_until(LIMIT, &format!("Service {name} to have the addresses {wanted:?}"), || {
            let published = self.published(name)?;
            if published == wanted { Ok(Some(())) } else { Err(anyhow!("{published:?}")) }
        })
    }

    /// The addresses in the status of the Service.
    pub(crate) fn published(&self, name: &str) -> Result<BTreeSet<IpAddr>> {
        let service = self.service(name)?;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        ingress.iter().map(|entry| Ok(entry["ip"].as_str().unwrap_or_default().parse()?)).collect()
    }

    /// Waits for an Event about the Service, as `kubectl describe` shows it; its message.
    pub(crate) fn wait_for_event(&self, service: &str, reason: &str) -> Result<String> {
        let selector = format!("involvedObject.name={service},involvedObject.kind=Service");
        wait_until(LIMIT, &format!("the Event {reason} of Service {service}"), || {
            let events = self.cluster.get(&self.namespace, &["events", "--field-selector", &selector])?;
            let items = events["items"].as_array().cloned().unwrap_or_default();
            let found = items.iter().find(|event| event["reason"] == reason);
            match found.and_then(|event| event["message"].as_str()) {
                Some(message) => Ok(Some(message.to_owned())),
                None => {
                    let seen: Vec<_> =
                        items.iter().map(|event| (&event["reason"], &event["message"])).collect();
                    Err(anyhow!("{seen:?}"))
                }
            }
        })
    }

    // === Traffic ===

    /// Waits for the first answer to an HTTP request from the client.
    pub(crate) fn wait_for_answer(&self, address: SocketAddr) -> Result<Answer> {
        wait_until(LIMIT, &format!("an answer from {address}"), || {
            client::http_get(self.lab.client(), address).map(Some)
        })
    }

    /// Several requests in a row, none of which may fail; the names of those who
    /// answered. It waits for such a row first: until kube-proxy has told it of a new
    /// Service and its Pods, a Node refuses, by a reset or an ICMP error.
    pub(crate) fn ask_often(&self, address: SocketAddr) -> Result<BTreeSet<String>> {
        let ask = || client::count_by_name(REQUESTS, || client::http_get(self.lab.client(), address));
        wait_until(LIMIT, &format!("{REQUESTS} answers from {address} in a row"), || ask().map(Some))?;
        Ok(ask()?.into_keys().collect())
    }

    /// Waits for an answer over UDP.
    pub(crate) fn wait_for_datagram(&self, address: SocketAddr) -> Result<Answer> {
        wait_until(LIMIT, &format!("a datagram from {address}"), || {
            client::udp_ask(self.lab.client(), address, "ping").map(Some)
        })
    }

    /// Waits until nobody takes connections there.
    pub(crate) fn wait_until_refused(&self, address: SocketAddr) -> Result<()> {
        wait_until(LIMIT, &format!("{address} to be closed"), || {
            match client::connect(self.lab.client(), address) {
                Ok(_) => bail!("it takes connections"),
                Err(_) => Ok(Some(())),
            }
        })
    }

    /// Waits until the address is, or is not, on the balancer's link.
    pub(crate) fn wait_for_link(&self, address: IpAddr, present: bool) -> Result<()> {
        let what = format!("{address} to be {} the link", if present { "on" } else { "off" });
        wait_until(LIMIT, &what, || {
            let addresses = self.balancer.addresses()?;
            let found = self.balancer.has_address(address)?;
            if found == present { Ok(Some(())) } else { Err(anyhow!("{addresses:?}")) }
        })
    }

    /// For a case that failed: what there is to see.
    pub(crate) fn explain(&self) {
        let show = |what: &str, text: Result<String>| {
            println!("--- {what}:\n{}", text.unwrap_or_else(|error| format!("({error:#})")));
        };
        show("objects", self.kubectl(&["get", "services,pods,endpointslices", "-o", "wide"]));
        show("events", self.kubectl(&["get", "events"]));
        show("link", self.balancer.addresses().map(|addresses| addresses.join("\n")));
        let log = self.balancer.directory().join(format!("agent-{}.log", self.balancer.name()));
        show("agent", std::fs::read_to_string(log).map_err(Into::into));
    }
}

impl Drop for Case<'_> {
    /// The next case must not meet these Services. Nobody is left to tell of
    /// an error; the next case would show it.
    fn drop(&mut self) {
        let _ = self.kubectl(&["delete", "service", "--all", "--wait=false"]);
        let _ = self.cluster.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        let _ = self.balancer.unplug();
    }
}

/// HTTP and UDP on [`ECHO_PORT`] of every node, on both families. Who answers
/// tells its node's name.
pub(crate) fn start_echo(lab: &Lab) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for name in ["node-1", "node-2"] {
        let host = lab.host(name);
        for address in [host.at(ECHO_PORT), host.at_v6(ECHO_PORT)] {
            servers.push(Server::http(host, address, name)?);
            servers.push(Server::udp(host, address, name)?);
        }
    }
    Ok(servers)
}

/// All backends of a frontend in the agent's desired state, as text.
pub(crate) fn backends_in(state: &Value, vip: IpAddr) -> String {
    let frontends = state["desired"]["frontends"].as_object();
    let prefix = SocketAddr::new(vip, 0).to_string();
    let prefix = prefix.trim_end_matches('0');
    frontends
        .into_iter()
        .flatten()
        .filter(|(frontend, _)| frontend.starts_with(prefix))
        .map(|(_, rule)| rule["backends"].to_string())
        .collect()
}
