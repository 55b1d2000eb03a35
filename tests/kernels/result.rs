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
    /// None: every kernel.
    series: Option<&'static str>,
    check: &'static str,
    reason: &'static str,
}

/// The check that a card gets the hook that it can have.
pub(crate) const HOOK: &str = "packet plane";

/// The check that the MTU may be raised.
pub(crate) const MTU: &str = "MTU raised under traffic";

const LACKS: [Lack; 2] = [
    Lack {
        series: Some("6.1"),
        check: HOOK,
        reason: "The agent uses its packet programs from Linux 6.6 on. Everything is relayed.",
    },
    Lack {
        series: None,
        check: MTU,
        reason: "Programs at XDP take frames of one page only, and stay when the MTU grows beyond it. A restart moves \
            them to TC.",
    },
];

impl Check {
    /// Judges what a check returned.
    pub(crate) fn judge(series: &str, place: Option<Place>, name: &str, outcome: anyhow::Result<()>) -> Self {
        let lack =
            LACKS.iter().find(|lack| lack.check == name && lack.series.is_none_or(|known| known == series));
        let outcome = match (outcome, lack) {
            (Ok(()), None) => Outcome::Right,
            (Ok(()), Some(lack)) => {
                println!(
                    "note: {name} works with {series}: its entry in tests/kernels/result.rs can go ({})",
                    lack.reason
                );
                Outcome::Right
            }
            (Err(_), Some(lack)) => Outcome::Known(lack.reason),
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
    fn only_what_is_listed_may_not_work() {
        let judge = |series, name, outcome| Check::judge(series, None, name, outcome).outcome;
        assert!(matches!(judge("6.1", HOOK, Err(anyhow!("x"))), Outcome::Known(_)));
        assert_eq!(judge("6.12", HOOK, Err(anyhow!("x"))), Outcome::Wrong("x".to_owned()));
        assert_eq!(judge("6.1", HOOK, Ok(())), Outcome::Right);
        assert_eq!(judge("6.12", "nat", Ok(())), Outcome::Right);
    }
}
