// SPDX-License-Identifier: Apache-2.0
//! What came of the checks of one machine. Nothing is measured here.

use std::fmt;

use crate::card::Card;

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Right,
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

/// The check that a card gets the hook that it can have.
pub(crate) const HOOK: &str = "packet plane";

/// The check that the MTU may be raised.
pub(crate) const MTU: &str = "MTU raised under traffic";

impl Check {
    /// Judges what a check returned.
    pub(crate) fn judge(series: &str, place: Option<Place>, name: &str, outcome: anyhow::Result<()>) -> Self {
        let outcome = match outcome {
            Ok(()) => Outcome::Right,
            Err(error) => Outcome::Wrong(format!("{error:#}")),
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
            Outcome::Right => None,
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
}
