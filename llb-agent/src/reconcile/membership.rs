// SPDX-License-Identifier: Apache-2.0
//! What the loop knows about the group of this box: its shares, by the markers that keepalived has put on
//! `lo`, and the problems with keepalived. Pure.

use std::collections::BTreeSet;

use tokio::sync::watch;

use crate::model::{Facts, Holding, Problem, Share, State};
use crate::ownership::{Group, News, Overview};

/// What is known about the group; nothing if the box is in none.
#[derive(Debug, Default)]
pub(super) struct Membership {
    joined: Option<Joined>,
}

#[derive(Debug)]
struct Joined {
    group: Group,
    /// What is wrong with keepalived, and what it has been told.
    news: watch::Receiver<News>,
    /// The shares of the last look.
    here: BTreeSet<Share>,
}

/// The shares that have moved since the last look.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) here: BTreeSet<Share>,
    pub(super) away: BTreeSet<Share>,
}

impl Membership {
    pub(super) fn new(group: Group, news: watch::Receiver<News>) -> Self {
        Self { joined: Some(Joined { group, news, here: BTreeSet::new() }) }
    }

    pub(super) fn is_in_group(&self) -> bool {
        self.joined.is_some()
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        self.joined.as_ref().map(|joined| joined.news.borrow().problems.clone()).unwrap_or_default()
    }

    pub(super) fn overview(&self, facts: &Facts, desired: &State) -> Option<Overview> {
        let Joined { group, news, .. } = self.joined.as_ref()?;
        Some(group.overview(&facts.host.markers, &news.borrow().standing, desired))
    }

    /// The VIPs that may be on the links, and what has moved.
    pub(super) fn look(&mut self, facts: &Facts) -> (Holding, Moved) {
        let Some(joined) = &mut self.joined else { return (Holding::All, Moved::default()) };
        let holding = joined.group.holding(&facts.host.markers);
        let Holding::Shares(here) = &holding else { return (holding, Moved::default()) };
        let moved = Moved { here: here - &joined.here, away: &joined.here - here };
        joined.here.clone_from(here);
        (holding, moved)
    }
}

impl Moved {
    pub(super) fn is_empty(&self) -> bool {
        self.here.is_empty() && self.away.is_empty()
    }
}
