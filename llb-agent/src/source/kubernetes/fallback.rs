// SPDX-License-Identifier: Apache-2.0
//! The saved snapshot, which is served if the API does not answer at the start.

use std::sync::Arc;

use super::health;
use crate::error_chain::ErrorChain;
use crate::model::{Problem, ProblemReason, Snapshot};
use crate::source::saved::{Saved, SavedError, SavedSnapshots};

/// What is served instead of lists that have not arrived, and what is said about it.
#[derive(Default)]
pub(super) struct Fallback {
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) problem: Option<Problem>,
}

impl Fallback {
    /// The saved snapshot, or why there is none.
    pub(super) async fn load(saved: SavedSnapshots) -> Self {
        match tokio::task::spawn_blocking(move || saved.load()).await {
            Ok(Ok(Saved { saved_at, snapshot, .. })) => {
                let message = format!("serving the saved snapshot of {saved_at} until the API answers");
                tracing::warn!(services = snapshot.services.len(), "{message}");
                let problem = health::problem(ProblemReason::SourceUnavailable, message);
                Self { snapshot: Some(Arc::new(snapshot)), problem: Some(problem) }
            }
            Ok(Err(error @ SavedError::Missing(_))) => {
                tracing::warn!(
                    "nothing is served until the API answers: there is no saved snapshot ({error})"
                );
                Self::default()
            }
            Ok(Err(error)) => {
                let error = ErrorChain(&error);
                let message = format!("nothing is served until the API answers: the saved snapshot {error}");
                tracing::warn!("{message}");
                let problem = health::problem(ProblemReason::SavedSnapshotRefused, message);
                Self { snapshot: None, problem: Some(problem) }
            }
            Err(error) => {
                tracing::error!(%error, "the task that reads the saved snapshot failed");
                Self::default()
            }
        }
    }
}
