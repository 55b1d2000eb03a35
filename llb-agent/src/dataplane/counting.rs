// SPDX-License-Identifier: Apache-2.0
//! A question about what the planes have counted.

use std::io;
use std::sync::Arc;

use crate::model::Counts;

/// Answers what the planes have counted. It can be asked at any time, but on a thread that may wait: maps are read.
#[derive(Clone, Default)]
pub struct Counting(Option<Arc<AskCounts>>);

type AskCounts = dyn Fn() -> io::Result<Counts> + Send + Sync;

impl Counting {
    /// The answers come from `ask`.
    pub fn new(ask: impl Fn() -> io::Result<Counts> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }

    /// What was counted until now.
    ///
    /// # Errors
    /// A map can't be read. Nothing is known then: counters that are missing would look like ones that have ended.
    pub fn now(&self) -> io::Result<Counts> {
        self.0.as_ref().map_or_else(|| Ok(Counts::default()), |ask| ask())
    }
}
