// SPDX-License-Identifier: Apache-2.0
//! A question about backends that can be asked at any time, from any task.

use std::sync::Arc;

use crate::model::{BackendStatus, Frontend};

/// Answers which backends a frontend has, and in which state they are.
#[derive(Clone, Default)]
pub struct BackendStates(Option<Arc<AskBackends>>);

type AskBackends = dyn Fn(&Frontend) -> Vec<BackendStatus> + Send + Sync;

impl BackendStates {
    /// The answers come from `ask`.
    pub fn new(ask: impl Fn(&Frontend) -> Vec<BackendStatus> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }

    /// The backends of a frontend; empty if its plane does not report them.
    pub fn of(&self, frontend: &Frontend) -> Vec<BackendStatus> {
        self.0.as_ref().map(|ask| ask(frontend)).unwrap_or_default()
    }
}
