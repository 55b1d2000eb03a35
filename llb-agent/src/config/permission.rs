// SPDX-License-Identifier: Apache-2.0
//! Which ports of the machine's own address Services may have: all but those that
//! its programs need. The operator can open these too.

use serde::Serialize;

use super::datapath::PortRange;

/// Reserved ports, and the programs that use them.
const RESERVED_PORTS: [(u16, &str); 5] = [
    (22, "SSH"),
    (2379, "etcd"),
    (2380, "etcd"),
    (6443, "the Kubernetes API server"),
    (10_250, "the kubelet"),
];

/// Which ports of the machine's own address Services may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OwnPorts {
    /// `--allow-ports`.
    pub allowed: Vec<PortRange>,
    /// The port of the admin endpoint.
    pub admin: Option<u16>,
}

impl OwnPorts {
    /// The program that a port is reserved for, unless it is allowed. Ephemeral ports are a fact of the machine (`model::Host`).
    pub fn reserved_for(&self, port: u16) -> Option<&'static str> {
        if self.is_allowed(port) {
            return None;
        }
        let admin = self.admin.map(|port| (port, "llb's admin endpoint"));
        RESERVED_PORTS.into_iter().chain(admin).find(|(reserved, _)| *reserved == port).map(|(_, what)| what)
    }

    /// Whether the operator has opened it.
    pub fn is_allowed(&self, port: u16) -> bool {
        self.allowed.iter().any(|range| (range.first..=range.last).contains(&port))
    }
}

pub(super) fn parse_ports(text: &str) -> Result<PortRange, String> {
    let single = text.trim().parse().ok().filter(|port| *port > 0);
    match single {
        Some(port) => Ok(PortRange { first: port, last: port }),
        None => text.parse().map_err(|_: String| {
            "give a port from 1 to 65535, or FIRST-LAST, as in 22 or 40000-40010".to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_can_be_opened() {
        let ports = OwnPorts { allowed: vec![parse_ports("22").unwrap()], admin: Some(9660) };
        assert_eq!(ports.reserved_for(22), None);
        assert_eq!(ports.reserved_for(6443), Some("the Kubernetes API server"));
        assert_eq!(ports.reserved_for(9660), Some("llb's admin endpoint"));
        assert_eq!(ports.reserved_for(80), None);
    }

    #[test]
    fn bad_ports_say_what_is_right() {
        for text in ["", "0", "ssh", "9-8", "65536"] {
            assert!(parse_ports(text).unwrap_err().contains("as in 22"), "{text}");
        }
    }
}
