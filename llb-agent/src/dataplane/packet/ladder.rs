// SPDX-License-Identifier: Apache-2.0
//! When the hooks of a link are tried again, and what is wrong with the hooks that they have. Pure; `relink.rs` does it.
//!
//! The kernel and the driver say whether a link can have XDP only when a program is put there, and what they say
//! depends on its MTU, offloads, queues and VLANs. So when one of these changes, all hooks are tried again. A link that
//! has lost XDP because another one takes no frames from XDP does not get it back before that.

use super::hooks::{Allowed, Ladder, hides_vlans};
use super::link_facts::LinkFacts;
use super::xdp_loss::{Sender, not_taking};
use crate::config::XdpMode;
use crate::model::Hook;
use crate::netlink::{Driver, Offloads};

/// What the hooks of a link were tried with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conditions {
    ifindex: u32,
    mtu: u32,
    has_vlans: bool,
    runs_xdp: bool,
    offloads: Offloads,
}

/// A link as it is now.
#[derive(Clone, Debug)]
pub(super) struct Now {
    pub(super) facts: LinkFacts,
    pub(super) driver: Driver,
    pub(super) hook: Hook,
    pub(super) tried_with: Option<Conditions>,
    pub(super) refusal: Option<String>,
    pub(super) kept_xdp: Option<String>,
    pub(super) has_kept_xdp: bool,
}

impl Now {
    pub(super) fn conditions(&self) -> Conditions {
        let Self { facts, driver, .. } = self;
        Conditions {
            ifindex: facts.ifindex,
            mtu: facts.mtu,
            has_vlans: facts.has_vlans,
            runs_xdp: driver.xdp.runs_programs,
            offloads: driver.offloads.clone(),
        }
    }

    fn has_changed(&self) -> bool {
        self.tried_with.as_ref().is_some_and(|before| *before != self.conditions())
    }

    pub(super) fn sender(&self) -> Sender {
        Sender {
            link: self.facts.name.clone(),
            is_veth: self.facts.kind.as_deref() == Some("veth"),
            hook: self.hook,
            mtu: self.facts.mtu,
            takes: self.driver.xdp,
            mixes_vlans: hides_vlans(&self.facts, &self.driver),
            refusal: self.refusal.clone(),
            kept: self.kept_xdp.clone(),
        }
    }
}

/// Whether any of these links may have XDP. If not, there is nothing to ask drivers for.
pub(super) fn may_have_xdp<'a>(allowed: Allowed, mut links: impl Iterator<Item = &'a LinkFacts>) -> bool {
    let driver = Driver::unknown();
    links.any(|link| allowed.ladder(link, &driver, None).hooks.contains(&Hook::Xdp))
}

/// The links, by their places, whose hooks must be tried again because something has changed.
pub(super) fn to_try_again(allowed: Allowed, links: &[Option<Now>]) -> Vec<(usize, Ladder)> {
    if !links.iter().flatten().any(Now::has_changed) {
        return Vec::new();
    }
    let never = allowed.never_taking(links.iter().flatten().map(|now| (&now.facts, &now.driver)));
    ladders(allowed, links, never, |now, ladder| {
        ladder.hooks.contains(&Hook::Xdp) || !ladder.hooks.contains(&now.hook) || now.kept_xdp.is_some()
    })
}

/// The links that must leave XDP, because a link does not take what XDP forwards to it.
pub(super) fn to_leave_xdp(allowed: Allowed, links: &[Option<Now>]) -> Vec<(usize, Ladder)> {
    if allowed.xdp_mode != XdpMode::Native {
        return Vec::new();
    }
    let senders: Vec<Sender> = links.iter().flatten().map(Now::sender).collect();
    let Some(by) = not_taking(&senders) else { return Vec::new() };
    ladders(allowed, links, Some(by), |now, ladder| {
        now.hook == Hook::Xdp && !ladder.hooks.contains(&Hook::Xdp)
    })
}

fn ladders(
    allowed: Allowed,
    links: &[Option<Now>],
    not_taking: Option<&str>,
    is_due: impl Fn(&Now, &Ladder) -> bool,
) -> Vec<(usize, Ladder)> {
    let all = links.iter().enumerate().filter_map(|(place, now)| {
        let now = now.as_ref()?;
        let ladder = allowed.ladder(&now.facts, &now.driver, not_taking);
        let ladder = if now.has_kept_xdp { ladder.without_xdp() } else { ladder };
        is_due(now, &ladder).then_some((place, ladder))
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::super::hooks::tests::{allowed, link};
    use super::*;
    use crate::config::Datapath;
    use crate::model::HookChoice;

    /// A link that was tried with what it has now.
    fn now(name: &str, kind: Option<&str>, hook: Hook) -> Now {
        let (facts, driver) = (link(name, kind), Driver::unknown());
        let mut now =
            Now { facts, driver, hook, tried_with: None, refusal: None, kept_xdp: None, has_kept_xdp: false };
        now.tried_with = Some(now.conditions());
        now
    }

    fn again(datapath: Datapath, links: &[Now]) -> Vec<(usize, HookChoice)> {
        let links: Vec<_> = links.iter().cloned().map(Some).collect();
        let due = to_try_again(allowed(datapath), &links);
        due.into_iter().map(|(place, ladder)| (place, ladder.choice)).collect()
    }

    fn leaving(datapath: Datapath, links: &[Now]) -> Vec<usize> {
        let links: Vec<_> = links.iter().cloned().map(Some).collect();
        to_leave_xdp(allowed(datapath), &links).into_iter().map(|(place, _)| place).collect()
    }

    #[test]
    fn all_hooks_are_tried_again_when_a_link_has_changed() {
        let (card, other) = (now("eth0", None, Hook::Xdp), now("eth1", None, Hook::Tc));
        assert_eq!(again(Datapath::Auto, &[card.clone(), other.clone()]), []);
        let changes: [fn(&mut Now); 4] = [
            |now| now.facts.mtu = 9000,
            |now| now.driver.offloads.all = vec![1],
            |now| now.facts.has_vlans = true,
            |now| now.driver.xdp.runs_programs = false,
        ];
        for change in changes {
            let mut changed = card.clone();
            change(&mut changed);
            let due = again(Datapath::Auto, &[changed.clone(), other.clone()]);
            assert_eq!(due, [(0, HookChoice::Fastest), (1, HookChoice::Fastest)]);
            assert_eq!(again(Datapath::Xdp, &[changed.clone()]), [(0, HookChoice::Flag(Hook::Xdp))]);
            assert_eq!(again(Datapath::Tc, &[Now { hook: Hook::Tc, ..changed.clone() }]), []);
            changed.tried_with = None;
            assert_eq!(again(Datapath::Auto, &[changed]), [], "it was tried just now");
        }
        // A veth has TC in any case.
        let mut veth = now("veth0", Some("veth"), Hook::Tc);
        veth.facts.mtu = 9000;
        assert_eq!(again(Datapath::Auto, &[veth]), []);
    }

    #[test]
    fn a_link_whose_driver_has_kept_xdp_stays_at_tc() {
        let mut link = now("eth0", None, Hook::Tc);
        (link.kept_xdp, link.has_kept_xdp) = (Some("busy".to_owned()), true);
        assert_eq!(again(Datapath::Auto, &[link.clone()]), [], "nothing has changed");
        // The MTU is lowered, and XDP goes.
        link.facts.mtu = 1400;
        assert_eq!(again(Datapath::Auto, &[link.clone()]), [(0, HookChoice::XdpKept)]);
        assert_eq!(again(Datapath::Tc, &[link.clone()]), [(0, HookChoice::Flag(Hook::Tc))]);
        // It is raised again.
        (link.kept_xdp, link.tried_with) = (None, Some(link.conditions()));
        link.facts.mtu = 9000;
        assert_eq!(again(Datapath::Auto, &[link]), []);
    }

    #[test]
    fn a_link_that_gets_vlans_leaves_xdp_if_their_tags_are_hidden() {
        let mut card = now("eth0", None, Hook::Xdp);
        card.driver.offloads.hides_vlan_tags = true;
        card.tried_with = Some(card.conditions());
        assert_eq!(again(Datapath::Auto, &[card.clone()]), []);
        card.facts.has_vlans = true;
        assert_eq!(again(Datapath::Auto, &[card]), [(0, HookChoice::HiddenVlanTags)]);
    }

    #[test]
    fn links_leave_xdp_when_another_one_takes_no_frames() {
        let (card, mut other) = (now("eth0", None, Hook::Xdp), now("eth1", None, Hook::Tc));
        assert_eq!(leaving(Datapath::Auto, &[card.clone(), other.clone()]), [0; 0]);
        other.driver.xdp.takes_frames = false;
        assert_eq!(leaving(Datapath::Auto, &[card.clone(), other.clone()]), [0]);
        assert_eq!(leaving(Datapath::Xdp, &[card.clone(), other.clone()]), [0; 0], "it was forced");
        let generic = Allowed { datapath: Datapath::Auto, xdp_mode: XdpMode::Generic };
        assert_eq!(to_leave_xdp(generic, &[Some(card.clone()), Some(other.clone())]), []);
        // It stays like this: nothing has changed since.
        let card = Now { hook: Hook::Tc, ..card };
        assert_eq!(leaving(Datapath::Auto, &[card.clone(), other.clone()]), [0; 0]);
        assert_eq!(again(Datapath::Auto, &[card, other]), []);
    }

    #[test]
    fn large_frames_need_a_link_that_takes_those() {
        let (mut card, mut other) = (now("eth0", None, Hook::Xdp), now("eth1", None, Hook::Xdp));
        other.driver.xdp.takes_large_frames = false;
        assert_eq!(leaving(Datapath::Auto, &[card.clone(), other.clone()]), [0; 0]);
        card.facts.mtu = 9000;
        assert_eq!(leaving(Datapath::Auto, &[card, other]), [0]);
    }

    #[test]
    fn a_link_that_is_away_is_left_alone() {
        let mut changed = now("eth0", None, Hook::Xdp);
        changed.facts.mtu = 9000;
        let due = to_try_again(allowed(Datapath::Auto), &[None, Some(changed)]);
        assert_eq!(due.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1]);
    }
}
