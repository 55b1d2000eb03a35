// SPDX-License-Identifier: Apache-2.0
//! What came of the checks of one machine, and what is known not to work. Nothing is measured here.

use std::fmt;

use crate::card::Card;

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Right,
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
    card: Card,
    /// None: all checks but that of the hook.
    check: Option<&'static str>,
    reason: &'static str,
}

/// The check that a card gets the hook that it can have.
pub(crate) const HOOK: &str = "packet plane";

/// The check that the MTU may be raised.
pub(crate) const MTU: &str = "MTU raised under traffic";

const LACKS: [Lack; 2] = [
    Lack {
        series: "6.1",
        card: Card::VirtioQueues,
        check: Some(MTU),
        reason: "This kernel's driver refuses to remove an XDP program while the MTU is large, so frames are lost. Lower the \
            MTU, restart llb-agent with --datapath tc, and raise the MTU again.",
    },
    Lack {
        series: "6.1",
        card: Card::Vmxnet3,
        check: None,
        reason: "Uploads in bulk stop at TC. The cause is not known; the card's LRO is suspected. With XDP (Linux 6.6 and \
            newer) uploads work.",
    },
];

/// Why this check is known to fail.
pub(crate) fn lack(series: &str, place: Option<&Place>, name: &str) -> Option<&'static str> {
    let place = place?;
    let is_meant = |lack: &&Lack| {
        (lack.series, lack.card) == (series, place.card)
            && lack.check.map_or(name != HOOK, |check| check == name)
    };
    LACKS.iter().find(is_meant).map(|lack| lack.reason)
}

impl Check {
    /// Judges what a check returned.
    pub(crate) fn judge(series: &str, place: Option<Place>, name: &str, outcome: anyhow::Result<()>) -> Self {
        let outcome = match (outcome, lack(series, place.as_ref(), name)) {
            (Ok(()), None) => Outcome::Right,
            (Ok(()), Some(reason)) => {
                println!(
                    "note: {name} works with {series}: its entry in tests/kernels/result.rs can go ({reason})"
                );
                Outcome::Right
            }
            (Err(_), Some(reason)) => Outcome::Known(reason),
            (Err(error), None) => Outcome::Wrong(format!("{error:#}")),
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
            Outcome::Right | Outcome::Known(_) => None,
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
    fn only_what_is_listed_may_not_work() {
        let outcome = |series, card, name| {
            let place = Place { card, hook: None };
            Check::judge(series, Some(place), name, Err(anyhow!("x"))).outcome
        };
        let is_known = |outcome| matches!(outcome, Outcome::Known(_));
        assert!(is_known(outcome("6.1", Card::VirtioQueues, MTU)));
        assert!(is_known(outcome("6.1", Card::Vmxnet3, "nat")));
        assert!(!is_known(outcome("6.1", Card::Vmxnet3, HOOK)));
        assert!(!is_known(outcome("6.1", Card::VirtioQueues, "nat")));
        assert!(!is_known(outcome("6.12", Card::VirtioQueues, MTU)));
    }
}
