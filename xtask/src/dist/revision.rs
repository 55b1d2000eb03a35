// SPDX-License-Identifier: Apache-2.0
//! Which sources these are, and from when. Everything that is shipped has the time of its sources, not of its build:
//! otherwise no two builds were the same.

use anyhow::{Context as _, Result, ensure};

use crate::shell;

/// The version of everything that is shipped.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A state of the sources.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Revision {
    /// Git's name of it; with an addition if files were changed since.
    pub(super) name: String,
    /// Its time, in seconds since 1970.
    pub(super) epoch: u64,
}

impl Revision {
    /// Asks git.
    ///
    /// # Errors
    /// These sources are not in a git repository of their own.
    pub(super) fn find() -> Result<Self> {
        let git = |arguments: &[&str]| shell::output(shell::command("git").args(arguments));
        let prefix = git(&["rev-parse", "--show-prefix"])?;
        ensure!(prefix.trim().is_empty(), "the git repository here is not llb's own");
        let shown = git(&["show", "--no-patch", "--format=%H %ct", "HEAD"])?;
        let (commit, epoch) = shown.trim().split_once(' ').context("git names no commit")?;
        let changes = if git(&["status", "--porcelain"])?.trim().is_empty() { "" } else { ", with changes" };
        Ok(Self { name: format!("{commit}{changes}"), epoch: epoch.parse()? })
    }
}
