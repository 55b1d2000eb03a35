// SPDX-License-Identifier: Apache-2.0
//! Man pages and completions. `llb-agent/examples/pages.rs` writes them, because it sees the definition of the flags.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::folders;
use super::revision::Revision;
use crate::shell;

/// What was written.
pub(super) struct Pages {
    /// Compressed man pages.
    pub(super) man: PathBuf,
    /// One file for each shell.
    pub(super) completions: PathBuf,
}

/// Writes all of them into the folder.
///
/// # Errors
/// The agent does not compile, or the folder can't be written.
pub(super) fn write(folder: &Path, revision: &Revision) -> Result<Pages> {
    folders::replace(folder)?;
    let date = shell::output(
        shell::command("date").args(["--utc", "+%F"]).arg(format!("--date=@{}", revision.epoch)),
    )?;
    shell::run(
        shell::command("cargo")
            .args(["run", "--package", "llb-agent", "--example", "pages"])
            .arg(folder)
            .arg(date.trim()),
    )?;
    let man = folder.join("man");
    // Without its own name and time in the file.
    let pages = fs::read_dir(&man)?.collect::<Result<Vec<_>, _>>().context("cannot read the man pages")?;
    shell::run(
        shell::command("gzip").args(["-9", "--no-name", "--"]).args(pages.iter().map(fs::DirEntry::path)),
    )?;
    Ok(Pages { man, completions: folder.join("completions") })
}
