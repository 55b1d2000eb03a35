// SPDX-License-Identifier: Apache-2.0
//! The default gateways, as the kernel last described them: thousands of VIPs
//! that are added together do not ask for them one by one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::super::reading::READING_LIFETIME;
use crate::model::{Family, Mac};

/// A default gateway, and its MAC if the kernel knows it.
pub(super) type Gateway = (IpAddr, Option<Mac>);

#[derive(Debug, Default)]
pub(super) struct Gateways {
    /// By the number of the link, and the family.
    answers: Mutex<BTreeMap<(u32, Family), Answer>>,
}

/// What the kernel said, and when.
#[derive(Clone, Copy, Debug)]
struct Answer {
    at: Instant,
    gateway: Option<Gateway>,
}

impl Gateways {
    /// What was read lately; the inner `None` says that there is no gateway.
    pub(super) fn get(&self, index: u32, family: Family, now: Instant) -> Option<Option<Gateway>> {
        // The map is valid at any point where a panic can happen.
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let &Answer { at, gateway } = answers.get(&(index, family))?;
        (now.duration_since(at) < READING_LIFETIME).then_some(gateway)
    }

    /// Records what was read.
    pub(super) fn insert(&self, index: u32, family: Family, gateway: Option<Gateway>, now: Instant) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert((index, family), Answer { at: now, gateway });
    }
}
