// SPDX-License-Identifier: Apache-2.0
//! Which hooks of a link are tried, and in which order. Pure. A link on which XDP would
//! lose packets gets TC; what else the kernel refuses is found out by trying (`loader.rs`).

use super::link_facts::LinkFacts;
use crate::config::{Datapath, XdpMode};
use crate::model::{Hook, HookChoice};

/// The hooks to try, in this order, and what decided that.
pub(super) fn hooks(
    datapath: Datapath,
    xdp_mode: XdpMode,
    link: &LinkFacts,
) -> (HookChoice, &'static [Hook]) {
    const TC: &[Hook] = &[Hook::Tc];
    match (datapath, link.kind.as_deref()) {
        (Datapath::Tc, _) => (HookChoice::Flag(Hook::Tc), TC),
        (Datapath::Xdp, _) => (HookChoice::Flag(Hook::Xdp), &[Hook::Xdp]),
        (_, Some("veth")) => (HookChoice::Veth, TC),
        (_, Some(kind)) if kind != "bond" && xdp_mode == XdpMode::Native => (HookChoice::VirtualLink, TC),
        _ => (HookChoice::Fastest, &Hook::ALL),
    }
}

#[cfg(test)]
mod tests {
    use llb_common::address::Mac;

    use super::*;

    #[test]
    fn links_that_would_lose_packets_with_xdp_get_tc_unless_told_otherwise() {
        let link = |kind: Option<&str>| LinkFacts {
            name: "eth0".to_owned(),
            ifindex: 2,
            mac: Mac::new([2; 6]),
            mtu: 1500,
            is_ethernet: true,
            kind: kind.map(str::to_owned),
            xdp: None,
        };
        let tried = |datapath, kind| hooks(datapath, XdpMode::Native, &link(kind)).1;
        assert_eq!(tried(Datapath::Auto, None), [Hook::Xdp, Hook::Tc]);
        assert_eq!(tried(Datapath::Auto, Some("bond")), [Hook::Xdp, Hook::Tc]);
        assert_eq!(tried(Datapath::Auto, Some("veth")), [Hook::Tc]);
        assert_eq!(tried(Datapath::Auto, Some("vlan")), [Hook::Tc]);
        assert_eq!(tried(Datapath::Xdp, Some("veth")), [Hook::Xdp]);
        assert_eq!(tried(Datapath::Tc, None), [Hook::Tc]);
    }
}
