// SPDX-License-Identifier: Apache-2.0
//! Which plane serves a frontend. Pure: what a rule asks for that only the relay
//! does. Whether the packet plane can reach the backends is its own to say.

use crate::config::Datapath;
use crate::model::{Balance, Rule};

/// Why a rule is the relay's, whatever the packet plane could do; `None`: it
/// may be tried.
pub(super) fn needs_relay(rule: &Rule) -> Option<String> {
    let terms = &rule.terms;
    if terms.proxy_protocol.is_some() {
        return Some("the PROXY protocol (llb.dev/proxy-protocol) is spoken by a relay".to_owned());
    }
    if terms.max_connections.is_some() {
        return Some("connections (llb.dev/max-connections) are counted by a relay".to_owned());
    }
    if terms.balance == Some(Balance::LeastConnections) {
        return Some("least connections (llb.dev/balance) are known to a relay".to_owned());
    }
    None
}

/// Why there is no packet plane by configuration; `None`: there is one.
pub(super) fn is_off(datapath: Datapath) -> Option<String> {
    match datapath {
        Datapath::Userspace => Some("--datapath userspace".to_owned()),
        Datapath::Sockmap => Some("--datapath sockmap".to_owned()),
        Datapath::Auto | Datapath::Xdp | Datapath::Tc => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{ProxyProtocol, ServiceName, Terms};

    #[test]
    fn only_what_a_packet_cannot_carry_needs_a_relay() {
        let needs = |terms: Terms| {
            needs_relay(&Rule::new(ServiceName::new("a", "b"), BTreeMap::new(), terms)).is_some()
        };
        assert!(!needs(Terms::default()));
        assert!(!needs(Terms { balance: Some(Balance::Maglev), ..Terms::default() }));
        assert!(needs(Terms { balance: Some(Balance::LeastConnections), ..Terms::default() }));
        assert!(needs(Terms { proxy_protocol: Some(ProxyProtocol::V2), ..Terms::default() }));
        assert!(needs(Terms { max_connections: std::num::NonZeroU32::new(1), ..Terms::default() }));
    }
}
