// SPDX-License-Identifier: Apache-2.0
//! One frontend as it is in the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use llb_common::backend::{BackendEntry, BackendId};
use llb_common::frontend::{FrontendEntry, MemberKey};

use super::gate::Gate;
use super::write::Write;
use crate::model::{Backend, Mode, Rule, Weight};

/// A frontend in the maps.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) entry: FrontendEntry,
    /// The rule that the maps follow. `None`: they were read back, so it is not known.
    pub(super) rule: Option<Arc<Rule>>,
    pub(super) mode: Mode,
    pub(super) gate: Gate,
    /// The backends of the rule, and former ones that may still have flows.
    pub(super) backends: BTreeMap<Backend, BackendEntry>,
    /// What the selection table was made of.
    pub(super) shares: Shares,
    pub(super) members: BTreeSet<MemberKey>,
}

impl Known {
    /// Sets all of `members`, as the ids behind the keys are not kept here and members are
    /// few, and then removes the others.
    pub(super) fn member_writes(&self, members: &BTreeMap<MemberKey, BackendId>) -> Vec<Write> {
        let set = members.iter().map(|(key, id)| Write::Member(*key, *id));
        let others = self.members.iter().filter(|key| !members.contains_key(key));
        set.chain(others.map(|key| Write::RemoveMember(*key))).collect()
    }
}

/// What a selection table was made of.
#[derive(Clone, Debug)]
pub(super) enum Shares {
    /// These backends, with these weights.
    Of(Vec<(BackendId, Weight)>),
    /// Not known: the table was read back, and these are its slots.
    ReadBack(Vec<u32>),
}

impl Default for Shares {
    fn default() -> Self {
        Self::Of(Vec::new())
    }
}
