// SPDX-License-Identifier: Apache-2.0
//! A dump: the whole list of one kind of object. The kernel sends it in parts
//! and flags a list that changed in between (NLM_F_DUMP_INTR); such a list may
//! lack entries, so it is read again. Pure: the caller does the reading.

use std::fmt;
use std::io;

use super::answer::Answer;
use super::failure::Failure;

/// How often a list is read if it changes each time.
const DUMP_ATTEMPTS: usize = 10;

/// What a dump lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Links,
    Addresses,
    Neighbours,
    Routes,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DumpError {
    #[error("cannot read the list of {kind}")]
    Failed {
        kind: Kind,
        #[source]
        source: Failure,
    },
    #[error("the list of {kind} changed during each of {DUMP_ATTEMPTS} attempts to read it")]
    Changing { kind: Kind },
}

/// The attempts to read one list.
#[derive(Debug)]
pub(super) struct Dump {
    kind: Kind,
    attempts: usize,
}

impl Dump {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, attempts: 0 }
    }

    /// Takes in one reading: the list, or `None` if it must be read again.
    ///
    /// # Errors
    /// The reading failed, or it was the last of [`DUMP_ATTEMPTS`] that were
    /// interrupted.
    pub(super) fn add(&mut self, reading: Result<Answer, Failure>) -> Result<Option<Answer>, DumpError> {
        let kind = self.kind;
        let answer = reading.map_err(|source| DumpError::Failed { kind, source })?;
        self.attempts += 1;
        match answer.interrupted {
            false => Ok(Some(answer)),
            true if self.attempts < DUMP_ATTEMPTS => Ok(None),
            true => Err(DumpError::Changing { kind }),
        }
    }
}

/// Without an error number ([`io::Error::raw_os_error`]), which would be about
/// a single object.
impl From<DumpError> for io::Error {
    fn from(error: DumpError) -> Self {
        let kind = match &error {
            DumpError::Failed { source: Failure::Refused(source), .. } => source.kind(),
            DumpError::Failed { .. } => io::ErrorKind::Other,
            DumpError::Changing { .. } => io::ErrorKind::Interrupted,
        };
        Self::new(kind, error)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Links => "links",
            Self::Addresses => "addresses",
            Self::Neighbours => "neighbours",
            Self::Routes => "routes",
        })
    }
}
