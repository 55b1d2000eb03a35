// SPDX-License-Identifier: Apache-2.0
//! Links as the packet plane must know them before it touches them, and which
//! hook is tried first. A link that can't carry a program is recognized here,
//! or by the kernel's refusal; it is never left dead.

use std::io;

use llb_common::address::Mac;

use super::attach::Hook;
use crate::config::{Datapath, XdpMode};
use crate::netlink::{Connection, LinkDevice};

/// What is known of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkFacts {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) mac: Mac,
    /// Bytes of the largest IP packet.
    pub(super) mtu: u32,
    /// Of the link, where it is none of hardware: `veth`, `vlan`, `bond` ...
    pub(super) kind: Option<String>,
    /// The XDP program that is there.
    pub(super) xdp: Option<(u32, XdpMode)>,
}

impl LinkFacts {
    /// # Errors
    /// The kernel can't be asked.
    pub(super) async fn read(connection: &mut Connection) -> io::Result<Vec<Self>> {
        Ok(connection.links().await?.into_iter().map(facts_of).collect())
    }
}

/// The hooks to try, in this order, and why those that are not tried are not.
pub(super) fn hooks(datapath: Datapath, xdp_mode: XdpMode, link: &LinkFacts) -> (Vec<Hook>, Vec<String>) {
    if datapath == Datapath::Tc {
        return (vec![Hook::Tc], vec!["--datapath tc".to_owned()]);
    }
    if datapath == Datapath::Xdp {
        return (vec![Hook::Xdp], vec!["--datapath xdp".to_owned()]);
    }
    let obstacle = match link.kind.as_deref() {
        Some("veth") => {
            Some("what XDP sends back arrives only if the other end of the veth pair has an XDP program too")
        }
        Some(_) if xdp_mode == XdpMode::Native && link.kind.as_deref() != Some("bond") => {
            Some("it is a virtual link, whose driver has no XDP")
        }
        _ => None,
    };
    match obstacle {
        Some(why) => (vec![Hook::Tc], vec![format!("no XDP on {}: {why}", link.name)]),
        None => (vec![Hook::Xdp, Hook::Tc], Vec::new()),
    }
}

fn facts_of(link: LinkDevice) -> LinkFacts {
    let mode = |driver| if driver { XdpMode::Native } else { XdpMode::Generic };
    LinkFacts {
        mac: link.mac.map_or(Mac::new([0; 6]), |mac| Mac::new(mac.0)),
        name: link.name,
        ifindex: link.ifindex,
        mtu: link.mtu,
        kind: link.kind,
        xdp: link.xdp.map(|(program, is_in_driver)| (program, mode(is_in_driver))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_would_be_dead_with_xdp_get_none_unless_told_so() {
        let link = |kind: Option<&str>| LinkFacts {
            name: "eth0".to_owned(),
            ifindex: 2,
            mac: Mac::new([2; 6]),
            mtu: 1500,
            kind: kind.map(str::to_owned),
            xdp: None,
        };
        let tried = |datapath, kind| hooks(datapath, XdpMode::Native, &link(kind)).0;
        assert_eq!(tried(Datapath::Auto, None), [Hook::Xdp, Hook::Tc]);
        assert_eq!(tried(Datapath::Auto, Some("bond")), [Hook::Xdp, Hook::Tc]);
        assert_eq!(tried(Datapath::Auto, Some("veth")), [Hook::Tc]);
        assert_eq!(tried(Datapath::Auto, Some("vlan")), [Hook::Tc]);
        assert_eq!(tried(Datapath::Xdp, Some("veth")), [Hook::Xdp]);
        assert_eq!(tried(Datapath::Tc, None), [Hook::Tc]);
    }
}
