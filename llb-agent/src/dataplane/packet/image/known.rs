// SPDX-License-Identifier: Apache-2.0
//! One frontend as it is in the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use llb_common::backend::{BackendEntry, BackendId};
use llb_common::frontend::{FrontendEntry, MemberKey};

use super::gate::Gate;
use crate::model::{Backend, Mode, Rule, Weight};

/// A frontend in the maps.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) entry: FrontendEntry,
    pub(super) rule: Option<Arc<Rule>>,
    pub(super) mode: Mode,
    pub(super) gate: Gate,
    /// Those of the rule, and those that were and may still have flows.
    pub(super) backends: BTreeMap<Backend, BackendEntry>,
    /// Who is in the table; after a restart only the table is known.
    pub(super) shares: Shares,
    pub(super) members: BTreeSet<MemberKey>,
}

#[derive(Debug)]
pub(super) enum Shares {
    Known(Vec<(BackendId, Weight)>),
    Slots(Vec<u32>),
}

impl Default for Shares {
    fn default() -> Self {
        Self::Known(Vec::new())
    }
}
