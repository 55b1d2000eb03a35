// SPDX-License-Identifier: Apache-2.0
//! What every case has: its own namespace, balancer host and VIPs, and the questions that a user would ask. The
//! case decides which answers are right.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use llb_tests::client::{self, Answer};
use llb_tests::cluster::Cluster;
use llb_tests::{Agent, Host, Lab, Server, wait_until};
use serde_json::{Value, json};

/// Limit for everything that goes through Kubernetes. After an outage of the API server, controllers may wait
/// up to a minute before they ask again (back-off of client-go: 30 s, plus a random time of the same length).
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// How long something that must not happen is watched: several times longer than a change takes.
pub(crate) const QUIET: Duration = Duration::from_millis(700);

/// How often a client asks. Without a pause it would use its ports again within half a minute, and every kernel and
/// kube-proxy on the way would have to forget the old connections in time.
pub(crate) const PACE: Duration = Duration::from_millis(10);

/// The port of the echo servers on every node.
pub(crate) const ECHO_PORT: u16 = 8888;

/// The nodes of the cluster.
const NODES: [&str; 2] = ["node-1", "node-2"];

/// Number of VIPs that one case may use.
const VIPS_PER_CASE: u8 = 4;
/// The VIPs of the lab.
const VIPS: u8 = 100;

/// A few, so both nodes are most likely asked. None of the requests may fail.
const REQUESTS: usize = 12;

/// One case and its part of the shared cluster.
pub(crate) struct Case<'a> {
    pub(crate) lab: &'a mut Lab,
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) namespace: String,
    pub(crate) balancer: Host,
    more_balancers: Vec<Host>,
    first_vip: u8,
}

impl<'a> Case<'a> {
    pub(crate) fn new(number: u8, name: &str, lab: &'a mut Lab, cluster: &'a mut Cluster) -> Result<Self> {
        let balancer = lab.add_host(&format!("balancer-{number}"))?;
        let mut namespace = name.rsplit("::").next().unwrap_or(name).replace('_', "-");
        // The name of a namespace is a DNS label (RFC 1123).
        namespace.truncate(63);
        cluster.kubectl(&["create", "namespace", &namespace])?;
        cluster.free_lease()?;
        // After 25 cases, the VIPs of the first ones are used again: nobody has them any more.
        let first_vip = number % (VIPS / VIPS_PER_CASE) * VIPS_PER_CASE;
        Ok(Self { lab, cluster, namespace, balancer, more_balancers: Vec::new(), first_vip })
    }

    /// The IPv4 VIP number `index` of this case.
    pub(crate) fn vip(&self, index: u8) -> IpAddr {
        assert!(index < VIPS_PER_CASE, "a case has {VIPS_PER_CASE} VIPs");
        self.lab.vip(self.first_vip + index)
    }

    /// The IPv6 VIP number `index` of this case.
    pub(crate) fn vip_v6(&self, index: u8) -> IpAddr {
        assert!(index < VIPS_PER_CASE, "a case has {VIPS_PER_CASE} VIPs");
        self.lab.vip_v6(self.first_vip + index)
    }

    // === The agent ===

    /// Starts an agent with its own ServiceAccount and waits until it is ready.
    pub(crate) fn agent(&self, flags: &[&str]) -> Result<Agent> {
        self.agent_on(&self.balancer, flags)
    }

    /// Adds another balancer host. It is unplugged when the case ends.
    pub(crate) fn add_balancer(&mut self, name: &str) -> Result<Host> {
        let host = self.lab.add_host(&format!("{}-{name}", self.balancer.name()))?;
        self.more_balancers.push(host.clone());
        Ok(host)
    }

    /// Starts an agent on another balancer host.
    pub(crate) fn agent_on(&self, host: &Host, flags: &[&str]) -> Result<Agent> {
        let kubeconfig = self.cluster.agent_kubeconfig().display().to_string();
        Agent::start(host, &[&["--kubeconfig", &kubeconfig, "--drain-timeout", "5s"], flags].concat())
    }

    // === Objects ===

    /// Creates Pods with the label `app=echo` on these nodes.
    pub(crate) fn add_echo_pods(&self, nodes: &[&str]) -> Result<()> {
        nodes.iter().try_for_each(|node| self.cluster.add_pod(&self.namespace, "echo", node))
    }

    /// Applies a Service of type LoadBalancer for `app=echo`, with the fields of `spec` added.
    pub(crate) fn apply_service(&self, name: &str, spec: &Value) -> Result<()> {
        self.apply_service_in(&self.namespace, name, spec)
    }

    /// As [`Case::apply_service`], in another namespace.
    pub(crate) fn apply_service_in(&self, namespace: &str, name: &str, spec: &Value) -> Result<()> {
        self.cluster.apply(namespace, &self.service_text(name, spec))
    }

    /// The Service of [`Case::apply_service`].
    pub(crate) fn service_text(&self, name: &str, spec: &Value) -> String {
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "selector": {"app": "echo"}, "ports": [{"port": ECHO_PORT}]},
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            service["spec"][field] = value.clone();
        }
        service.to_string()
    }

    /// Runs `kubectl` in this case's namespace.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["--namespace", &self.namespace], arguments].concat())
    }

    /// Runs `kubectl patch service` with a merge patch.
    pub(crate) fn patch_service(&self, name: &str, patch: &Value) -> Result<()> {
        self.kubectl(&["patch", "service", name, "--type=merge", "-p", &patch.to_string()]).map(drop)
    }

    /// The Service as the API returns it.
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

    /// Waits for an Event about the Service, as `kubectl describe` shows it, and returns its message.
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

    /// The Events about the Service, as pairs of reason and message, the oldest first.
    pub(crate) fn events(&self, service: &str) -> Result<Vec<(String, String)>> {
        let selector = format!("involvedObject.name={service},involvedObject.kind=Service");
        let sorted = ["events", "--field-selector", &selector, "--sort-by=.metadata.creationTimestamp"];
        let events = self.cluster.get(&self.namespace, &sorted)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = events["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().map(|event| (text(&event["reason"]), text(&event["message"]))).collect())
    }

    /// How often agents have written the status of a Service of this case, and how many Events they have created
    /// in its namespace.
    pub(crate) fn writes_of_llb(&self, service: &str) -> Result<(usize, usize)> {
        let user = self.cluster.agent_user();
        let writes = self.cluster.writes_in(&self.namespace)?;
        let of_llb = || writes.iter().filter(|write| write.user == user);
        let statuses = of_llb().filter(|write| write.resource == "services/status" && write.name == service);
        let events = of_llb().filter(|write| write.resource == "events");
        Ok((statuses.count(), events.count()))
    }

    // === Traffic ===

    /// Waits for the first answer to an HTTP request from the client.
    pub(crate) fn wait_for_answer(&self, address: SocketAddr) -> Result<Answer> {
        wait_until(LIMIT, &format!("an answer from {address}"), || {
            client::http_get(self.lab.client(), address).map(Some)
        })
    }

    /// Sends several requests in a row, none of which may fail, and returns the names in the answers. Before
    /// that it waits for a row without failures: as long as kube-proxy does not know a new Service and its
    /// Pods, a Node refuses, by a reset or an ICMP error.
    pub(crate) fn ask_often(&self, address: SocketAddr) -> Result<BTreeSet<String>> {
        let ask = || client::count_by_name(REQUESTS, || client::http_get(self.lab.client(), address));
        wait_until(LIMIT, &format!("{REQUESTS} answers from {address} in a row"), || ask().map(Some))?;
        Ok(ask()?.into_keys().collect())
    }

    /// Waits until every node answers on the Service's first nodePort. kube-proxy of a node may follow seconds after
    /// the others, and until then the node refuses connections.
    pub(crate) fn wait_for_every_node(&self, service: &str) -> Result<()> {
        let port = &self.service(service)?["spec"]["ports"][0]["nodePort"];
        let port = port.as_u64().and_then(|port| u16::try_from(port).ok()).context("no nodePort")?;
        NODES.iter().try_for_each(|node| self.ask_often(self.lab.host(node).at(port)).map(drop))
    }

    /// Waits for an answer over UDP.
    pub(crate) fn wait_for_datagram(&self, address: SocketAddr) -> Result<Answer> {
        wait_until(LIMIT, &format!("a datagram from {address}"), || {
            client::udp_ask(self.lab.client(), address, "ping").map(Some)
        })
    }

    /// Waits until the address refuses connections.
    pub(crate) fn wait_until_refused(&self, address: SocketAddr) -> Result<()> {
        wait_until(LIMIT, &format!("{address} to be closed"), || {
            match client::connect(self.lab.client(), address) {
                Ok(_) => bail!("it takes connections"),
                Err(_) => Ok(Some(())),
            }
        })
    }

    /// Waits until the address is on the balancer's link, or has left it.
    pub(crate) fn wait_for_link(&self, address: IpAddr, present: bool) -> Result<()> {
        let what = format!("{address} to be {} the link", if present { "on" } else { "off" });
        wait_until(LIMIT, &what, || {
            let addresses = self.balancer.addresses()?;
            let found = self.balancer.has_address(address)?;
            if found == present { Ok(Some(())) } else { Err(anyhow!("{addresses:?}")) }
        })
    }

    /// Prints what there is to see of a case that has failed.
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
    /// The next case must not meet these Services. An error cannot be returned here; the next case would fail
    /// by it.
    fn drop(&mut self) {
        let _ = self.kubectl(&["delete", "service", "--all", "--wait=false"]);
        let _ = self.cluster.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        let _ = self.balancer.unplug();
        self.more_balancers.iter().for_each(|host| drop(host.unplug()));
    }
}

/// Starts HTTP and UDP servers on [`ECHO_PORT`] of every node, for both families. They answer with the name of
/// their node.
pub(crate) fn start_echo(lab: &Lab) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for name in NODES {
        let host = lab.host(name);
        for address in [host.at(ECHO_PORT), host.at_v6(ECHO_PORT)] {
            servers.push(Server::http(host, address, name)?);
            servers.push(Server::udp(host, address, name)?);
        }
    }
    Ok(servers)
}

/// The backends of a frontend in the agent's desired state, as text.
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
