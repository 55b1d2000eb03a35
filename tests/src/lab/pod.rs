// SPDX-License-Identifier: Apache-2.0
//! A network namespace behind a host, as a CNI plugin of the kind "ptp" makes it for a Pod: a veth pair, one address, and
//! the host as router. What runs in it is decided elsewhere.
//!
//! ```text
//!   host (routes)  veth  --------  eth0  pod (10.244.1.7/32, default route through the host)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::host::Host;
use super::namespace;

/// The host's address on the link to each Pod. Only Pods see it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A Pod's network. Dropping it ends every process in it and removes it.
#[derive(Debug)]
pub struct PodNetwork {
    host: Host,
}

impl PodNetwork {
    /// Makes the network of a Pod with this address on `node`. `name` is at most 15 bytes long.
    ///
    /// # Errors
    /// `ip` refused.
    pub fn new(node: &Host, name: &str, address: Ipv4Addr) -> Result<Self> {
        let host = Host {
            name: name.to_owned(),
            namespace: format!("{}-{name}", node.namespace),
            segment: node.namespace.clone(),
            ipv4: address,
            ipv6: Ipv6Addr::UNSPECIFIED,
            // Locally administered, and different for each address.
            mac: {
                let [a, b, c, d] = address.octets();
                [0x02, 0x00, a, b, c, d]
            },
            directory: node.directory.clone(),
        };
        namespace::create(&host.namespace)?;
        let pod = Self { host };
        pod.connect(node)?;
        Ok(pod)
    }

    /// The namespace as a host of the lab. Methods that concern the bridge do not work: a Pod has no port on it.
    pub fn host(&self) -> &Host {
        &self.host
    }

    fn connect(&self, node: &Host) -> Result<()> {
        let Host { name, namespace, ipv4, mac, .. } = &self.host;
        let (link, mac) = (Host::LINK, mac.map(|byte| format!("{byte:02x}")).join(":"));
        node.ip(&format!(
            "link add {name} type veth peer name {link} address {mac} netns {namespace}\nlink set {name} up\n\
             addr add {GATEWAY}/32 dev {name}\nroute add {ipv4}/32 dev {name}\n"
        ))?;
        self.host.ip(&format!(
            "link set lo up\nlink set {link} up\naddr add {ipv4}/32 dev {link}\nroute add {GATEWAY}/32 dev {link}\n\
             route add default via {GATEWAY} dev {link}\n"
        ))
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        namespace::remove(&self.host.namespace);
    }
}
