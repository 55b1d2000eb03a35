// SPDX-License-Identifier: Apache-2.0
//! Which hooks of a link are tried, and in which order. Pure. Links on which XDP would lose or mix up packets get
//! TC; what else the kernel refuses is found out by trying (`loader.rs`).

use super::link_facts::LinkFacts;
use crate::config::{Datapath, XdpMode};
use crate::model::{Hook, HookChoice};
use crate::netlink::Driver;

const TC: &[Hook] = &[Hook::Tc];

/// The hooks to try on one link, in this order, and what decided that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ladder {
    pub(super) choice: HookChoice,
    pub(super) hooks: &'static [Hook],
}

/// Which hooks the operator allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    pub(super) datapath: Datapath,
    pub(super) xdp_mode: XdpMode,
}

impl Ladder {
    /// The ladder of a link whose driver has kept XDP when it should have ended. When the MTU was lowered for that, it can be
    /// raised again.
    pub(super) fn without_xdp(self) -> Self {
        match self.choice {
            HookChoice::Fastest => Self { choice: HookChoice::XdpKept, hooks: TC },
            _ => self,
        }
    }
}

impl Allowed {
    /// The ladder of a link. `not_taking`: a link whose driver takes no frames from XDP.
    pub(super) fn ladder(self, link: &LinkFacts, driver: &Driver, not_taking: Option<&str>) -> Ladder {
        let is_native = self.xdp_mode == XdpMode::Native;
        let (choice, hooks) = match (self.datapath, link.kind.as_deref(), not_taking) {
            (Datapath::Tc, ..) => (HookChoice::Flag(Hook::Tc), TC),
            (Datapath::Xdp, ..) => (HookChoice::Flag(Hook::Xdp), &[Hook::Xdp][..]),
            (_, Some("veth"), _) => (HookChoice::Veth, TC),
            (_, Some(kind), _) if kind != "bond" && is_native => (HookChoice::VirtualLink, TC),
            _ if hides_vlans(link, driver) => (HookChoice::HiddenVlanTags, TC),
            (_, _, Some(by)) if is_native && by != link.name => {
                (HookChoice::NotTaken { by: by.to_owned() }, TC)
            }
            _ => (HookChoice::Fastest, &Hook::ALL[..]),
        };
        Ladder { choice, hooks }
    }

    /// The first link of which is known, before it has a program, that its driver will take no frames from XDP. Many
    /// drivers take them only while the link itself has XDP, so a link on which XDP is tried is left out here.
    pub(super) fn never_taking<'a>(
        self,
        mut links: impl Iterator<Item = (&'a LinkFacts, &'a Driver)>,
    ) -> Option<&'a str> {
        let never = |(link, driver): &(&LinkFacts, &Driver)| {
            let gets_xdp = self.ladder(link, driver, None).hooks.contains(&Hook::Xdp);
            !driver.xdp.takes_frames && !(gets_xdp && driver.xdp.runs_programs)
        };
        links.find(never).map(|(link, _)| link.name.as_str())
    }
}

/// Whether XDP can't tell frames of the link's VLANs from the link's own.
pub(super) fn hides_vlans(link: &LinkFacts, driver: &Driver) -> bool {
    link.has_vlans && driver.offloads.hides_vlan_tags
}

#[cfg(test)]
pub(super) mod tests {
    use llb_common::address::Mac;

    use super::*;

    pub(in super::super) fn link(name: &str, kind: Option<&str>) -> LinkFacts {
        LinkFacts {
            name: name.to_owned(),
            ifindex: 2,
            mac: Mac::new([2; 6]),
            mtu: 1500,
            is_ethernet: true,
            kind: kind.map(str::to_owned),
            below: None,
            has_vlans: false,
            xdp: None,
        }
    }

    pub(in super::super) fn allowed(datapath: Datapath) -> Allowed {
        Allowed { datapath, xdp_mode: XdpMode::Native }
    }

    /// A driver that runs XDP, and one that does not. Neither takes frames before the link has a program.
    fn drivers() -> [Driver; 2] {
        [true, false].map(|runs_programs| {
            let mut driver = Driver::unknown();
            (driver.xdp.runs_programs, driver.xdp.takes_frames) = (runs_programs, false);
            driver
        })
    }

    #[test]
    fn links_that_would_lose_packets_with_xdp_get_tc_unless_told_otherwise() {
        let tried =
            |datapath, kind| allowed(datapath).ladder(&link("eth0", kind), &Driver::unknown(), None).hooks;
        assert_eq!(tried(Datapath::Auto, None), [Hook::Xdp, Hook::Tc]);
        assert_eq!(tried(Datapath::Auto, Some("bond")), [Hook::Xdp, Hook::Tc]);
        assert_eq!(tried(Datapath::Auto, Some("veth")), [Hook::Tc]);
        assert_eq!(tried(Datapath::Auto, Some("vlan")), [Hook::Tc]);
        assert_eq!(tried(Datapath::Xdp, Some("veth")), [Hook::Xdp]);
        assert_eq!(tried(Datapath::Tc, None), [Hook::Tc]);
    }

    #[test]
    fn a_link_with_vlans_gets_tc_if_the_card_takes_their_tags_out() {
        let mut hiding = Driver::unknown();
        hiding.offloads.hides_vlan_tags = true;
        let parent = LinkFacts { has_vlans: true, ..link("eth0", None) };
        let choice =
            |link: &LinkFacts, driver: &Driver| allowed(Datapath::Auto).ladder(link, driver, None).choice;
        assert_eq!(choice(&parent, &hiding), HookChoice::HiddenVlanTags);
        assert_eq!(choice(&parent, &Driver::unknown()), HookChoice::Fastest, "XDP sees the tags");
        assert_eq!(choice(&link("eth0", None), &hiding), HookChoice::Fastest, "there are no VLANs");
        let generic = Allowed { datapath: Datapath::Auto, xdp_mode: XdpMode::Generic };
        assert_eq!(generic.ladder(&parent, &hiding, None).choice, HookChoice::HiddenVlanTags);
        let forced = allowed(Datapath::Xdp).ladder(&parent, &hiding, None);
        assert_eq!(forced.choice, HookChoice::Flag(Hook::Xdp));
    }

    #[test]
    fn all_links_get_tc_if_one_will_never_take_frames_of_xdp() {
        let [with_xdp, without] = drivers();
        let never = |links: &[(LinkFacts, &Driver)]| {
            let links = links.iter().map(|(link, driver)| (link, *driver));
            allowed(Datapath::Auto).never_taking(links).map(str::to_owned)
        };
        let card = || link("eth0", None);
        assert_eq!(never(&[(card(), &with_xdp)]), None, "it will, once it has a program");
        assert_eq!(never(&[(card(), &with_xdp), (link("eth1", None), &without)]).unwrap(), "eth1");
        assert_eq!(never(&[(card(), &with_xdp), (link("v", Some("vlan")), &with_xdp)]).unwrap(), "v");
        assert_eq!(never(&[(card(), &with_xdp), (link("eth1", None), &Driver::unknown())]), None);
        let ladder = allowed(Datapath::Auto).ladder(&card(), &with_xdp, Some("v"));
        assert_eq!(
            (ladder.choice, ladder.hooks),
            (HookChoice::NotTaken { by: "v".to_owned() }, &[Hook::Tc][..])
        );
        let forced = allowed(Datapath::Xdp).ladder(&card(), &with_xdp, Some("v"));
        assert_eq!(forced.hooks, [Hook::Xdp]);
        let generic = Allowed { datapath: Datapath::Auto, xdp_mode: XdpMode::Generic };
        assert_eq!(generic.ladder(&card(), &with_xdp, Some("v")).hooks, Hook::ALL, "the kernel sends them");
        let alone = allowed(Datapath::Auto).ladder(&card(), &without, Some("eth0"));
        assert_eq!(alone.hooks, Hook::ALL, "cards send back what came in there; if not, the driver says why");
    }
}
