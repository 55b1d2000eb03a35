// SPDX-License-Identifier: Apache-2.0
//! Which links lose or mix up what XDP sends. Pure. The drivers do not complain: the frames are gone without an error.
//! `auto` avoids all of it (`hooks.rs`, `ladder.rs`); this tells what happens when XDP was forced.

use crate::model::{Hook, Problem, ProblemReason, Subject};
use crate::netlink::XdpFeatures;

/// The largest MTU at which each frame is in one buffer with every driver.
const ONE_BUFFER: u32 = 1500;

/// A link with a program, and what its driver does with frames that XDP sends in the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) link: String,
    pub(super) is_veth: bool,
    pub(super) hook: Hook,
    pub(super) mtu: u32,
    /// What the driver takes. A veth takes frames only while the other end of the pair has an XDP program or GRO.
    pub(super) takes: XdpFeatures,
    /// XDP can't tell frames of the link's VLANs from the link's own.
    pub(super) mixes_vlans: bool,
    /// Why the kernel does not take the program any more that is there.
    pub(super) refusal: Option<String>,
    /// Why the driver keeps an XDP program of llb, though the link's program is at TC.
    pub(super) kept: Option<String>,
}

/// A link that does not take what XDP forwards to it from another link.
pub(super) fn not_taking(links: &[Sender]) -> Option<&str> {
    links.iter().find(|to| source_of_loss(links, to).is_some()).map(|to| to.link.as_str())
}

/// Another link from which XDP forwards to `to`, and what it forwards is lost.
fn source_of_loss<'a>(links: &'a [Sender], to: &Sender) -> Option<&'a Sender> {
    let is_lost =
        |from: &Sender| !to.takes.takes_frames || from.mtu > ONE_BUFFER && !to.takes.takes_large_frames;
    links.iter().find(|from| from.hook == Hook::Xdp && from.link != to.link && is_lost(from))
}

/// The problems of these links, which are all that have programs. `is_native`: XDP is in the driver.
pub(super) fn problems(links: &[Sender], is_native: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for link in links {
        let mut add = |reason, message| {
            problems.push(Problem { subject: Subject::Link(link.link.clone()), reason, message });
        };
        let losses = if is_native { loss(links, link) } else { None };
        if let Some(message) = losses.or_else(|| refused(link)).or_else(|| kept(link)) {
            add(ProblemReason::XdpLosesPackets, message);
        }
        if link.hook == Hook::Xdp && link.mixes_vlans {
            let link = &link.link;
            let message = format!(
                "the card takes VLAN tags out of frames, so XDP takes those of VLANs on {link} for its own: \
                 `ethtool -K {link} rxvlan off`, or start llb with --datapath auto or tc"
            );
            add(ProblemReason::XdpMixesVlans, message);
        }
    }
    problems
}

/// Whether this is one of [`problems`].
pub(super) fn is_loss(problem: &Problem) -> bool {
    matches!(problem.reason, ProblemReason::XdpLosesPackets | ProblemReason::XdpMixesVlans)
}

fn loss(links: &[Sender], to: &Sender) -> Option<String> {
    let link = &to.link;
    // Other drivers send back what came in there, whatever they say about frames from other links.
    if to.hook == Hook::Xdp && to.is_veth && !to.takes.takes_frames {
        return Some(format!(
            "what XDP sends back by {link} is lost, so Services there do not answer: the other end of this veth \
             pair has no XDP program; start llb with --datapath auto or tc"
        ));
    }
    let Sender { link: from, mtu, .. } = source_of_loss(links, to)?;
    Some(if to.takes.takes_frames {
        format!(
            "what XDP forwards from {from} (MTU {mtu}) to {link} is lost if it is in more than one buffer: the \
             driver of {link} does not take such frames from XDP; start llb with --datapath auto or tc"
        )
    } else {
        format!(
            "what XDP forwards from {from} to {link} is lost: the driver of {link} takes no frames from XDP; start \
             llb with --datapath auto or tc"
        )
    })
}

fn refused(link: &Sender) -> Option<String> {
    if link.hook != Hook::Xdp {
        return None;
    }
    let Sender { link, mtu, refusal, .. } = link;
    let error = refusal.as_ref()?;
    Some(format!(
        "{link} has changed (its MTU is {mtu}), and would not take XDP any more, so packets may be lost; change it \
         back, or start llb with --datapath auto or tc: {error}"
    ))
}

fn kept(link: &Sender) -> Option<String> {
    let Sender { link, mtu, kept, .. } = link;
    let error = kept.as_ref()?;
    Some(format!(
        "the MTU of {link} ({mtu}) is too large for XDP, and its driver does not let llb remove XDP, so large frames are \
         lost: set the MTU to 1500 (`ip link set {link} mtu 1500`), wait until this problem is gone, then set it to {mtu} \
         again; llb forwards at TC from then on: {error}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: XdpFeatures = XdpFeatures {
        runs_programs: true,
        runs_large_programs: true,
        takes_frames: true,
        takes_large_frames: true,
    };

    fn sender(link: &str, is_veth: bool, hook: Hook, takes_frames: bool) -> Sender {
        let takes = XdpFeatures { takes_frames, ..ALL };
        let link = link.to_owned();
        Sender { link, is_veth, hook, mtu: 1500, takes, mixes_vlans: false, refusal: None, kept: None }
    }

    fn found(links: &[Sender]) -> Vec<String> {
        let texts = problems(links, true).into_iter().map(|problem| problem.to_string());
        texts
            .map(|text| text.split(", so").next().unwrap().split(": the").next().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_link_that_takes_no_frames_loses_what_xdp_sends_there() {
        let nothing: Vec<String> = Vec::new();
        let (xdp, tc) = (Hook::Xdp, Hook::Tc);
        assert_eq!(found(&[sender("eth0", true, xdp, true)]), nothing);
        assert_eq!(found(&[sender("eth0", true, tc, false)]), nothing, "TC sends by the kernel");
        assert_eq!(found(&[sender("eth0", false, xdp, false)]), nothing, "a network card sends back");
        assert_eq!(
            found(&[sender("eth0", true, xdp, false)]),
            ["link eth0: XdpLosesPackets: what XDP sends back by eth0 is lost"]
        );
        let both = [sender("eth0", false, xdp, true), sender("eth1", false, tc, false)];
        assert_eq!(found(&both), ["link eth1: XdpLosesPackets: what XDP forwards from eth0 to eth1 is lost"]);
        assert_eq!(problems(&both, false), [], "behind the driver, the kernel sends");
        assert_eq!(found(&[sender("eth0", false, tc, true), sender("eth1", false, tc, false)]), nothing);
    }

    #[test]
    fn frames_of_several_buffers_need_a_driver_that_takes_those() {
        let mut links = [sender("eth0", false, Hook::Xdp, true), sender("eth1", false, Hook::Xdp, true)];
        links[1].takes.takes_large_frames = false;
        assert_eq!(not_taking(&links), None);
        links[0].mtu = 9000;
        assert_eq!(not_taking(&links), Some("eth1"));
        assert_eq!(
            found(&links),
            [
                "link eth1: XdpLosesPackets: what XDP forwards from eth0 (MTU 9000) to eth1 is lost if it is in more \
                 than one buffer"
            ]
        );
    }

    #[test]
    fn xdp_that_mixes_vlans_up_or_is_refused_by_now_is_a_problem() {
        let mut link = sender("eth0", false, Hook::Xdp, true);
        (link.mixes_vlans, link.refusal, link.mtu) = (true, Some("too large".to_owned()), 9000);
        assert_eq!(
            found(&[link.clone()]),
            [
                "link eth0: XdpLosesPackets: eth0 has changed (its MTU is 9000), and would not take XDP any more",
                "link eth0: XdpMixesVlans",
            ]
        );
        let both = problems(&[link.clone()], false);
        assert_eq!(both.len(), 2, "also behind the driver");
        assert!(both.iter().all(is_loss));
        link.hook = Hook::Tc;
        assert_eq!(problems(&[link.clone()], true), [], "the program at TC that is there loses nothing");
        link.kept = Some("it is busy".to_owned());
        let kept = problems(&[link], true).pop().unwrap().to_string();
        assert!(kept.starts_with("link eth0: XdpLosesPackets: the MTU of eth0 ("), "{kept}");
        assert!(kept.contains("`ip link set eth0 mtu 1500`") && kept.ends_with(": it is busy"), "{kept}");
    }
}
