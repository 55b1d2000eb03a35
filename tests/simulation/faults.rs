// SPDX-License-Identifier: Apache-2.0
//! Which calls fail next, and how often each fault has struck. What a fault
//! does is in `faulty.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Everything that can go wrong in a call. "Fails" means that nothing happens
/// and the call says so; "reports failure" means that it happens all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    ObserveLinksFails,
    /// Half of the addresses that llb added are missing from the answer.
    ObserveLinksIsIncomplete,
    ProbeFails,
    AddAddressFails,
    AddAddressReportsFailure,
    RemoveAddressFails,
    RemoveAddressReportsFailure,
    WriteStatusFails,
    WriteStatusReportsFailure,
    UpsertFrontendFails,
    UpsertFrontendReportsFailure,
    /// Nothing happens. A plane can't report that; it shows in what is observed.
    RemoveFrontendFails,
}

impl Fault {
    pub(crate) const ALL: [Self; 12] = [
        Self::ObserveLinksFails,
        Self::ObserveLinksIsIncomplete,
        Self::ProbeFails,
        Self::AddAddressFails,
        Self::AddAddressReportsFailure,
        Self::RemoveAddressFails,
        Self::RemoveAddressReportsFailure,
        Self::WriteStatusFails,
        Self::WriteStatusReportsFailure,
        Self::UpsertFrontendFails,
        Self::UpsertFrontendReportsFailure,
        Self::RemoveFrontendFails,
    ];
}

/// Shared by everything that can fail in one world.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// How many of the next calls each fault strikes.
    coming: BTreeMap<Fault, u32>,
    /// How many calls each fault has struck.
    struck: BTreeMap<Fault, u32>,
}

impl Faults {
    /// The next `calls` calls that `fault` can strike are struck.
    pub(crate) fn plan(&self, fault: Fault, calls: u32) {
        self.lock().coming.insert(fault, calls);
    }

    /// From now on no call is struck.
    pub(crate) fn clear(&self) {
        self.lock().coming.clear();
    }

    /// Asked by each call that `fault` can strike: whether it does now.
    pub(crate) fn strikes(&self, fault: Fault) -> bool {
        let mut inner = self.lock();
        let Some(calls) = inner.coming.get_mut(&fault).filter(|calls| **calls > 0) else { return false };
        *calls -= 1;
        *inner.struck.entry(fault).or_default() += 1;
        true
    }

    /// How many calls each fault has struck.
    pub(crate) fn struck(&self) -> BTreeMap<Fault, u32> {
        self.lock().struck.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
