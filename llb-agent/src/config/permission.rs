// SPDX-License-Identifier: Apache-2.0
//! The flags that open addresses and ports to Services. Whoever may create a
//! Service asks for them; the operator of this machine decides.

use clap::Args;
use serde::Serialize;

use super::{Policy, PortRange};
use crate::model::AddressRange;

/// Ports on the machine's own address that Services do not get, and what uses them.
const KEPT_PORTS: [(u16, &str); 5] = [
    (22, "SSH"),
    (2379, "etcd"),
    (2380, "etcd"),
    (6443, "the Kubernetes API server"),
    (10_250, "the kubelet"),
];

#[derive(Debug, Args)]
pub(super) struct PermissionArgs {
    /// Addresses that Services may ask for besides those of the pools: a CIDR, FIRST-LAST or a single address
    /// (repeatable, or comma-separated) [default: without a --pool, the subnets of the link devices]
    #[arg(long, value_name = "RANGE", value_delimiter = ',')]
    allow_vips: Vec<AddressRange>,

    /// Ports on the machine's own address that Services may have although they are kept: PORT or FIRST-LAST (repeatable,
    /// or comma-separated). Kept are 22, 2379, 2380, 6443, 10250, the port of --admin, and net.ipv4.ip_local_port_range
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = parse_ports)]
    allow_ports: Vec<PortRange>,
}

impl PermissionArgs {
    pub(super) fn into_policy(self, admin_port: u16) -> (Vec<AddressRange>, OwnPorts) {
        (self.allow_vips, OwnPorts { allowed: self.allow_ports, admin: Some(admin_port) })
    }
}

/// Which ports of the machine's own address Services may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OwnPorts {
    /// `--allow-ports`.
    pub allowed: Vec<PortRange>,
    /// The port of the admin endpoint.
    pub admin: Option<u16>,
}

impl OwnPorts {
    /// What a port is kept for, unless it is allowed. Ephemeral ports are the kernel's to name.
    pub fn kept_for(&self, port: u16) -> Option<&'static str> {
        if self.is_allowed(port) {
            return None;
        }
        let admin = self.admin.map(|port| (port, "llb's admin endpoint"));
        KEPT_PORTS.into_iter().chain(admin).find(|(kept, _)| *kept == port).map(|(_, what)| what)
    }

    /// Whether the operator has opened it.
    pub fn is_allowed(&self, port: u16) -> bool {
        self.allowed.iter().any(|range| (range.first..=range.last).contains(&port))
    }
}

fn parse_ports(text: &str) -> Result<PortRange, String> {
    let single = text.trim().parse().ok().filter(|port| *port > 0);
    match single {
        Some(port) => Ok(PortRange { first: port, last: port }),
        None => text.parse().map_err(|_: String| {
            "give a port from 1 to 65535, or FIRST-LAST, as in 22 or 40000-40010".to_owned()
        }),
    }
}

impl Policy {
    /// What Services may ask for, and which flag narrows it: one line for the log.
    pub fn what_is_open(&self, links: &[String]) -> String {
        let whose = match &*self.namespaces {
            [] => "every namespace".to_owned(),
            namespaces => format!("namespace {}", namespaces.join(", ")),
        };
        let list =
            |ranges: &[AddressRange]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let beside = if self.allow_vips.is_empty() {
            String::new()
        } else {
            format!(", or of --allow-vips {}", list(&self.allow_vips))
        };
        if self.pools.is_empty() {
            return format!(
                "Services of {whose} are served on the address of {links}, and may ask for any free address in its subnets{beside}; \
                 --pool narrows this to the addresses of the pool, --namespace to some Services",
                links = links.join(", ")
            );
        }
        let pools: Vec<String> = self.pools.iter().map(ToString::to_string).collect();
        format!(
            "Services of {whose} may have addresses of --pool {}{beside}; --namespace narrows this",
            pools.join(", --pool ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_what_is_open() {
        let mut policy = Policy::default();
        let links = ["eth0".to_owned()];
        assert_eq!(
            policy.what_is_open(&links),
            "Services of every namespace are served on the address of eth0, and may ask for any free address in its subnets; \
             --pool narrows this to the addresses of the pool, --namespace to some Services"
        );
        policy.pools = vec!["a=192.0.2.7".parse().unwrap()];
        policy.allow_vips = vec!["198.51.100.7".parse().unwrap()];
        policy.namespaces = vec!["shop".to_owned()];
        assert_eq!(
            policy.what_is_open(&links),
            "Services of namespace shop may have addresses of --pool a=192.0.2.7, or of --allow-vips 198.51.100.7; --namespace narrows this"
        );
    }

    #[test]
    fn kept_ports_can_be_opened() {
        let ports = OwnPorts { allowed: vec![parse_ports("22").unwrap()], admin: Some(9660) };
        assert_eq!(ports.kept_for(22), None);
        assert_eq!(ports.kept_for(6443), Some("the Kubernetes API server"));
        assert_eq!(ports.kept_for(9660), Some("llb's admin endpoint"));
        assert_eq!(ports.kept_for(80), None);
    }

    #[test]
    fn bad_ports_say_what_is_right() {
        for text in ["", "0", "ssh", "9-8", "65536"] {
            assert!(parse_ports(text).unwrap_err().contains("as in 22"), "{text}");
        }
    }
}
