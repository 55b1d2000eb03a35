// SPDX-License-Identifier: Apache-2.0
//! How far the loop is: over the agent's life ([`Stage`]), and in the last
//! round ([`Progress`]). Pure.
//!
//! ```text
//!   Stage:     TakingOver -> FrontendsServed --the old agent gave up its locks--.
//!              Starting <-------------------------------------------------------'
//!              Starting -> Ready
//!   Progress:  Complete | CutShort | Unreadable      of the last round alone
//! ```

use std::time::Duration;

use super::machine::FIRST_RETRY;
use crate::plan::Action;

/// What the loop may change, and whether it has done that once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Another agent still changes addresses and statuses: this one only adds frontends.
    TakingOver,
    /// As `TakingOver`, and every frontend of the snapshot is served, or was tried.
    FrontendsServed,
    /// This agent changes everything; no round was complete yet.
    #[default]
    Starting,
    /// A round was complete.
    Ready,
}

impl Stage {
    pub(super) fn allows(self, action: &Action) -> bool {
        match self {
            Self::TakingOver | Self::FrontendsServed => matches!(action, Action::UpsertFrontend { .. }),
            Self::Starting | Self::Ready => true,
        }
    }

    /// Whether this agent changes everything.
    pub(super) fn is_in_charge(self) -> bool {
        matches!(self, Self::Starting | Self::Ready)
    }

    /// The stage after a complete round.
    pub(super) fn after_complete_round(self) -> Self {
        match self {
            Self::TakingOver | Self::FrontendsServed => Self::FrontendsServed,
            Self::Starting | Self::Ready => Self::Ready,
        }
    }
}

/// How the last round ended.
#[derive(Debug, Default)]
pub(super) enum Progress {
    /// Everything that was due was done, or tried.
    #[default]
    Complete,
    /// The limit of actions in a round stopped it.
    CutShort {
        /// The first action of the round.
        first: Action,
        /// The round before was cut short too and began with the same action:
        /// something undoes what the loop does.
        repeats: bool,
    },
    /// The kernel did not say what is on the links.
    Unreadable,
}

impl Progress {
    /// A round that began with `first` was cut short; `self` is the round before it.
    pub(super) fn then_cut_short(self, first: Action) -> Self {
        let repeats = matches!(&self, Self::CutShort { first: before, .. } if *before == first);
        Self::CutShort { first, repeats }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }

    /// Another round at once would probably end the same way.
    pub(super) fn is_stuck(&self) -> bool {
        match self {
            Self::Complete | Self::CutShort { repeats: false, .. } => false,
            Self::CutShort { repeats: true, .. } | Self::Unreadable => true,
        }
    }

    /// How long to wait until the next round finishes this one; `None` if nothing is left to finish.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Complete => None,
            _ if self.is_stuck() => Some(FIRST_RETRY),
            _ => Some(Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PublishedStatus, ServiceName};

    fn action(name: &str) -> Action {
        Action::WriteStatus { service: ServiceName::new("a", name), status: PublishedStatus::default() }
    }

    #[test]
    fn only_the_same_cut_twice_in_a_row_is_stuck() {
        let once = Progress::Complete.then_cut_short(action("x"));
        assert_eq!(once.wait(), Some(Duration::ZERO));
        let other = once.then_cut_short(action("y"));
        assert_eq!(other.wait(), Some(Duration::ZERO));
        let same = other.then_cut_short(action("y"));
        assert_eq!(same.wait(), Some(FIRST_RETRY));
        assert_eq!(Progress::Unreadable.then_cut_short(action("y")).wait(), Some(Duration::ZERO));
        assert_eq!(Progress::Complete.wait(), None);
    }

    #[test]
    fn frontends_that_are_served_do_not_make_an_agent_ready() {
        let stage = Stage::TakingOver.after_complete_round();
        assert_eq!(stage, Stage::FrontendsServed);
        assert_eq!(stage.after_complete_round(), Stage::FrontendsServed);
        assert!(!stage.allows(&action("x")));
        assert_eq!(Stage::Starting.after_complete_round(), Stage::Ready);
        assert!(Stage::Ready.allows(&action("x")));
    }
}
