// SPDX-License-Identifier: Apache-2.0
//! llb's conditions on a Service, as `kubectl wait` and `kubectl describe` show them. Not: when
//! they are true (`reconcile/conditions.rs`).

use serde::{Deserialize, Serialize};

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Condition {
    /// Its status is True, else False.
    pub is_true: bool,
    /// Why, as one word (CamelCase).
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// `lastTransitionTime` as the API shows it; `None` if it is not written yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<String>,
}

/// The conditions of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conditions {
    /// `llb.dev/Programmed`: its VIPs are on links, and its ports are served.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub programmed: Option<Condition>,
    /// `llb.dev/Reachable`: it has a backend that is not known to be dead.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reachable: Option<Condition>,
}

impl Condition {
    /// The type of [`Conditions::programmed`] in the API.
    pub const PROGRAMMED: &'static str = "llb.dev/Programmed";
    /// The type of [`Conditions::reachable`] in the API.
    pub const REACHABLE: &'static str = "llb.dev/Reachable";

    /// A condition that is not written yet.
    pub fn new(is_true: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { is_true, reason: reason.into(), message: message.into(), since: None }
    }

    /// Keeps the time of `before` if that says the same.
    fn after(self, before: Option<&Self>) -> Self {
        let since = before.filter(|before| before.is_true == self.is_true);
        Self { since: since.and_then(|before| before.since.clone()), ..self }
    }
}

impl Conditions {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.programmed.is_none() && self.reachable.is_none()
    }

    /// Whether a write would be no news. Most messages alone are none, they come with the next write. Which
    /// agent serves the VIPs is.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let gist = |condition: &Option<Condition>| {
            condition.as_ref().map(|known| (known.is_true, known.reason.clone()))
        };
        let served = |conditions: &Self| {
            let programmed = conditions.programmed.as_ref().filter(|known| known.is_true);
            programmed.map(|known| known.message.clone())
        };
        gist(&self.programmed) == gist(&other.programmed)
            && gist(&self.reachable) == gist(&other.reachable)
            && served(self) == served(other)
    }

    /// These conditions with the times of those of `before` that say the same.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        Self {
            programmed: self.programmed.map(|condition| condition.after(before.programmed.as_ref())),
            reachable: self.reachable.map(|condition| condition.after(before.reachable.as_ref())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let known = Condition { since: Some("then".to_owned()), ..Condition::new(true, "A", "a") };
        let before = Conditions { programmed: Some(known), reachable: None };
        let of = |is_true, reason: &str, message: &str| Conditions {
            programmed: Some(Condition::new(is_true, reason, message)),
            reachable: None,
        };
        let since = |conditions: Conditions| conditions.after(&before).programmed.unwrap().since;
        assert_eq!(since(of(true, "B", "b")).as_deref(), Some("then"));
        assert_eq!(since(of(false, "A", "a")), None);
        assert!(of(true, "A", "a").says_the_same(&before));
        assert!(
            !of(true, "B", "a").says_the_same(&before)
                && !of(true, "A", "another agent").says_the_same(&before)
        );
        assert!(of(false, "A", "b").says_the_same(&of(false, "A", "c")));
    }
}
