// SPDX-License-Identifier: Apache-2.0
//! What came of the checks of one machine, and what is known not to work. Nothing is measured here.

use std::fmt;

use crate::card::Card;

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Right,
    /// It works once somebody has done what the agent says: why.
    ByHand(&'static str),
    /// It does not work, and that is known: why.
    Known(&'static str),
    /// The run fails; what happened.
    Wrong(String),
}

/// One check of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// Like `6.12`.
    pub(crate) series: String,
    /// None: it concerns the whole machine.
    pub(crate) place: Option<Place>,
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
}

/// A card, and the hook of its packet program; none: the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) card: Card,
    pub(crate) hook: Option<String>,
}

impl Place {
    /// `xdp`, `tc` or `relay`.
    pub(crate) fn hook(&self) -> &str {
        self.hook.as_deref().unwrap_or("relay")
    }
}

/// What `--datapath auto` takes on a card.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) series: String,
    pub(crate) place: Place,
    /// The agent's own words.
    pub(crate) why: String,
}

/// All that one machine has shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// `uname -srv` of each machine, with the series.
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) checks: Vec<Check>,
}

/// Something that is known not to work. When it works, the run says that the entry can go; it does not fail then.
struct Lack {
    series: &'static str,
    cards: &'static [Card],
    check: &'static str,
    /// It works once somebody has done what the agent says. The check does that, and fails if it does not help.
    is_mended_by_hand: bool,
    reason: &'static str,
}

/// The check that a card gets the hook that it can have.
pub(crate) const HOOK: &str = "packet plane";

/// The check that the MTU may be raised.
pub(crate) const MTU: &str = "MTU raised under traffic";

const LACKS: [Lack; 2] = [VIRTIO_KEEPS_XDP, VMXNET3_LOSES_LARGE_FRAMES];

const VIRTIO_KEEPS_XDP: Lack = Lack {
    series: "6.1",
    cards: &[Card::VirtioQueues, Card::Virtio],
    check: MTU,
    is_mended_by_hand: true,
    reason: "The driver does not let an XDP program go while the MTU is large, and loses larger frames. The agent says so, and what \
        to do (problem XdpLosesPackets): lower the MTU, and raise it again when the agent forwards at TC.",
};

const VMXNET3_LOSES_LARGE_FRAMES: Lack = Lack {
    series: "6.12",
    cards: &[Card::Vmxnet3],
    check: MTU,
    is_mended_by_hand: false,
    reason: "The driver does not let the agent replace its XDP program while the MTU is large. Frames that are larger than before do not \
        arrive on QEMU's card, even if the program is gone; the cause is not known.",
};

fn lack(series: &str, place: Option<&Place>, name: &str) -> Option<&'static Lack> {
    let card = place?.card;
    LACKS.iter().find(|lack| (lack.series, lack.check) == (series, name) && lack.cards.contains(&card))
}

/// Whether this check is known to fail.
pub(crate) fn is_known_to_fail(series: &str, place: Option<&Place>, name: &str) -> bool {
    lack(series, place, name).is_some_and(|lack| !lack.is_mended_by_hand)
}

/// Whether this check must do what the agent says.
pub(crate) fn needs_a_hand(series: &str, place: &Place, name: &str) -> bool {
    lack(series, Some(place), name).is_some_and(|lack| lack.is_mended_by_hand)
}

impl Check {
    /// Judges what a check returned.
    pub(crate) fn judge(series: &str, place: Option<Place>, name: &str, outcome: anyhow::Result<()>) -> Self {
        let outcome = match (outcome, lack(series, place.as_ref(), name)) {
            (Ok(()), None) => Outcome::Right,
            (Ok(()), Some(lack)) if lack.is_mended_by_hand => Outcome::ByHand(lack.reason),
            (Ok(()), Some(lack)) => {
                let reason = lack.reason;
                println!(
                    "note: {name} works with {series}: its entry in tests/kernels/result.rs can go ({reason})"
                );
                Outcome::Right
            }
            (Err(_), Some(lack)) if !lack.is_mended_by_hand => Outcome::Known(lack.reason),
            (Err(error), _) => Outcome::Wrong(format!("{error:#}")),
        };
        Self { series: series.to_owned(), place, name: name.to_owned(), outcome }
    }
}

impl Findings {
    pub(crate) fn extend(&mut self, other: Self) {
        self.versions.extend(other.versions);
        self.choices.extend(other.choices);
        self.checks.extend(other.checks);
    }

    /// The checks whose outcome fails the run.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let wrong = |check: &Check| match &check.outcome {
            Outcome::Wrong(what) => Some(format!("{check}: {what}")),
            Outcome::Right | Outcome::ByHand(_) | Outcome::Known(_) => None,
        };
        self.checks.iter().filter_map(wrong).collect()
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}", self.series)?;
        if let Some(place) = &self.place {
            write!(f, ", {}, {}", place.card.name(), place.hook())?;
        }
        write!(f, ": {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_fails_is_named_with_its_cause() {
        let judge = |name, outcome| Check::judge("6.1", None, name, outcome);
        let checks = vec![judge("nat", Ok(())), judge("demo", Err(anyhow!("x").context("y")))];
        let findings = Findings { checks, ..Findings::default() };
        assert_eq!(findings.wrong(), ["Linux 6.1: demo: y: x"]);
    }

    #[test]
    fn what_needs_a_hand_is_named_and_must_work() {
        let place = |card| Place { card, hook: None };
        let judge = |series, card, outcome| Check::judge(series, Some(place(card)), MTU, outcome).outcome;
        for card in [Card::VirtioQueues, Card::Virtio] {
            assert!(needs_a_hand("6.1", &place(card), MTU));
            assert!(matches!(judge("6.1", card, Ok(())), Outcome::ByHand(_)));
            assert!(matches!(judge("6.1", card, Err(anyhow!("x"))), Outcome::Wrong(_)));
            assert_eq!(judge("6.12", card, Ok(())), Outcome::Right);
        }
        assert!(!needs_a_hand("6.1", &place(Card::VirtioQueues), "nat"));
        assert!(!is_known_to_fail("6.1", Some(&place(Card::VirtioQueues)), MTU));
    }
}
