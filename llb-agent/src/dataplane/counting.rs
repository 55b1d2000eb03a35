// SPDX-License-Identifier: Apache-2.0
//! Reads what the planes have counted, from any task.

use std::io;
use std::sync::Arc;

use crate::model::Counts;

/// Reads what the planes have counted. It can be asked at any time, but only on a thread that may block, because it reads maps.
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
    /// A map can't be read. Then there is no answer at all, since missing counters would look like counters that have ended.
    pub fn now(&self) -> io::Result<Counts> {
        self.0.as_ref().map_or_else(|| Ok(Counts::default()), |ask| ask())
    }
}
