// SPDX-License-Identifier: Apache-2.0
//! What came of `--try-address`. Pure.

use super::super::check::CheckId;
use super::super::facts::{Outcome, Trial};
use super::super::finding::Finding;
use crate::addresses::Belief;

const CHECK: CheckId = CheckId::AntiSpoofing;

pub(super) fn judge(trial: Option<&Trial>) -> Vec<Finding> {
    let Some(Trial { address, outcome }) = trial else { return Vec::new() };
    vec![of_outcome(outcome).of(address.to_string())]
}

fn of_outcome(outcome: &Outcome) -> Finding {
    const OTHER: &str = "name a free address of a subnet of a --linkdevice";
    match outcome {
        Outcome::NoLink => Finding::skipped(CHECK, "it is in no subnet of a link that is up", OTHER),
        Outcome::Own => Finding::skipped(CHECK, "this machine has it", OTHER),
        Outcome::Taken(mac) => {
            Finding::skipped(CHECK, format!("the host {mac} has it, so it was not announced"), OTHER)
        }
        Outcome::NoNeighbour => {
            let action = "add a default route on the link, or run doctor when there are Nodes on the segment";
            Finding::skipped(
                CHECK,
                "no gateway and no Node on the segment is known that could be asked",
                action,
            )
        }
        Outcome::Failed(error) => {
            let what = format!("it could not be tried: {error}");
            Finding::skipped(CHECK, what, "run doctor as root, or with CAP_NET_RAW")
        }
        Outcome::Asked(neighbour, Belief { answers_other: true, .. }) => {
            Finding::ok(CHECK, format!("{neighbour} accepts the new address"))
        }
        Outcome::Asked(neighbour, Belief { answers_own: true, .. }) => Finding::error(
            CHECK,
            format!(
                "{neighbour} answers questions from this machine's own address, but not from the new one"
            ),
            "allow more addresses on this port of the switch or hypervisor: port security, DHCP snooping, dynamic ARP \
             inspection; in OpenStack allowed address pairs, in VMware forged transmits",
        ),
        Outcome::Asked(neighbour, _) => {
            let what = format!("{neighbour} does not even answer this machine's own address");
            Finding::warning(CHECK, what, "look at the link and at the neighbour first")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Level;
    use super::*;
    use crate::model::Mac;

    #[test]
    fn only_silence_to_the_new_address_alone_means_protection() {
        let level = |outcome| {
            let trial = Trial { address: "192.0.2.199".parse().unwrap(), outcome };
            judge(Some(&trial))[0].level
        };
        let asked = |answers_own, answers_other| {
            let belief = Belief { answers_own, answers_other };
            level(Outcome::Asked("192.0.2.1".parse().unwrap(), belief))
        };
        assert_eq!(asked(true, true), Level::Ok);
        assert_eq!(asked(true, false), Level::Error);
        assert_eq!(asked(false, false), Level::Warning);
        for outcome in [
            Outcome::NoLink,
            Outcome::Own,
            Outcome::NoNeighbour,
            Outcome::Taken(Mac([2; 6])),
            Outcome::Failed("no".to_owned()),
        ] {
            assert_eq!(level(outcome), Level::Skipped);
        }
        assert_eq!(judge(None), []);
    }
}
