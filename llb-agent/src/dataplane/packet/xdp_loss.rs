// SPDX-License-Identifier: Apache-2.0
//! Which links lose what XDP sends. Pure. The drivers do not complain: the frames are gone without an error.
//! `auto` avoids the most frequent case (`hooks.rs`); this finds the others.

use crate::model::{Hook, Problem, ProblemReason, Subject};

/// A link with a program, and what its driver does with frames that XDP sends in the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) link: String,
    pub(super) is_veth: bool,
    pub(super) hook: Hook,
    /// The driver takes frames that XDP sends there: `NETDEV_XDP_ACT_NDO_XMIT`. A veth takes them only while
    /// the other end of the pair has an XDP program or GRO.
    pub(super) takes_frames: bool,
}

/// The problems of these links, which are all that have programs.
pub(super) fn losses(links: &[Sender]) -> Vec<Problem> {
    let is_xdp = |sender: &Sender| sender.hook == Hook::Xdp;
    let message = |to: &Sender| {
        let link = &to.link;
        // Other drivers send back what came in there, whatever they say about frames from other links.
        if is_xdp(to) && to.is_veth {
            return Some(format!(
                "what XDP sends back by {link} is lost, so Services there do not answer: the other end of this veth \
                 pair has no XDP program; start llb with --datapath auto or tc"
            ));
        }
        let from = links.iter().find(|from| is_xdp(from) && from.link != *link)?;
        Some(format!(
            "what XDP forwards from {} to {link} is lost: the driver of {link} takes no frames from XDP; start llb \
             with --datapath tc",
            from.link
        ))
    };
    let losing = links.iter().filter(|link| !link.takes_frames);
    let problem = |link: &Sender| {
        let (subject, reason) = (Subject::Link(link.link.clone()), ProblemReason::XdpLosesPackets);
        Some(Problem { subject, reason, message: message(link)? })
    };
    losing.filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_takes_no_frames_loses_what_xdp_sends_there() {
        let sender = |link: &str, is_veth, hook, takes_frames| Sender {
            link: link.to_owned(),
            is_veth,
            hook,
            takes_frames,
        };
        let found = |links: &[Sender]| -> Vec<String> {
            let texts = losses(links).into_iter().map(|problem| problem.to_string());
            texts
                .map(|text| text.split(", so").next().unwrap().split(": the").next().unwrap().to_owned())
                .collect()
        };
        let nothing: Vec<String> = Vec::new();
        let (xdp, tc) = (Hook::Xdp, Hook::Tc);
        assert_eq!(found(&[sender("eth0", true, xdp, true)]), nothing);
        assert_eq!(found(&[sender("eth0", true, tc, false)]), nothing, "TC sends by the kernel");
        assert_eq!(found(&[sender("eth0", false, xdp, false)]), nothing, "a network card sends back");
        assert_eq!(
            found(&[sender("eth0", true, xdp, false)]),
            ["link eth0: XdpLosesPackets: what XDP sends back by eth0 is lost"]
        );
        assert_eq!(
            found(&[sender("eth0", false, xdp, true), sender("eth1", false, tc, false)]),
            ["link eth1: XdpLosesPackets: what XDP forwards from eth0 to eth1 is lost"]
        );
        assert_eq!(found(&[sender("eth0", false, tc, true), sender("eth1", false, tc, false)]), nothing);
    }
}
