// SPDX-License-Identifier: Apache-2.0
//! How an action ended. Plain data.

use crate::error_chain::ErrorChain;
use crate::model::{MESSAGE_BYTES, ProblemReason, PublishedStatus, cut};
use crate::plan::Action;
use crate::status::Effect;

/// An action that has ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) action: Action,
    /// For a status write: the status that it replaces.
    pub(super) replaced: PublishedStatus,
    pub(super) result: Result<Effect, Failed>,
}

/// Why an action failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The reason of the problem that is reported.
    pub(super) reason: ProblemReason,
    /// The error with all its causes.
    pub(super) message: String,
}

impl Failed {
    /// A failure without a more exact reason.
    pub(super) fn new(error: impl std::error::Error) -> Self {
        // An answer of the API server may have any length.
        let message = cut(ErrorChain(&error).to_string(), MESSAGE_BYTES);
        Self { reason: ProblemReason::ActionFailed, message }
    }
}
