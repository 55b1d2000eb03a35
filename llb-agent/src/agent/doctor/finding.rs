// SPDX-License-Identifier: Apache-2.0
//! What a check has found: one line for the reader.

use serde::Serialize;

use super::check::CheckId;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Skipped,
    /// llb serves, but slower, or not everything.
    Warning,
    /// llb does not start, serves nobody or not everything, or lacks what a flag requires.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: CheckId,
    pub(super) level: Level,
    /// The link, Node or address.
    pub(super) object: Option<String>,
    /// What was found.
    pub(super) what: String,
    /// Why it matters.
    pub(super) why: Option<&'static str>,
    /// What to do.
    #[serde(rename = "do")]
    pub(super) action: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: CheckId, what: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, object: None, what: what.into(), why: None, action: None }
    }

    /// A check that could not be made. `action` says what makes it possible.
    pub(super) fn skipped(check: CheckId, what: impl Into<String>, action: impl Into<String>) -> Self {
        Self { level: Level::Skipped, action: Some(action.into()), ..Self::ok(check, what) }
    }

    pub(super) fn warning(check: CheckId, what: impl Into<String>, action: impl Into<String>) -> Self {
        let why = Some(check.why());
        Self { level: Level::Warning, why, action: Some(action.into()), ..Self::ok(check, what) }
    }

    pub(super) fn error(check: CheckId, what: impl Into<String>, action: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::warning(check, what, action) }
    }

    /// The same about a link, a Node or an address.
    pub(super) fn of(self, object: impl Into<String>) -> Self {
        Self { object: Some(object.into()), ..self }
    }
}
