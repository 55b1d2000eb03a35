// SPDX-License-Identifier: Apache-2.0
//! Which hooks of a link are tried, and in which order. Pure. A link on which XDP would
//! lose packets gets TC; what else the kernel refuses is found out by trying (`loader.rs`).

use super::link_facts::LinkFacts;
use crate::config::{Datapath, XdpMode};
use crate::model::Hook;

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

#[cfg(test)]
mod tests {
    use llb_common::address::Mac;

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
