// SPDX-License-Identifier: Apache-2.0
//! Everything that goes into archive, packages and image of one architecture.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::architecture::Architecture;
use super::binary::{Binary, Profile};
use super::folders;
use super::licences;
use super::pages::Pages;

/// What was built.
pub(super) struct Files<'a> {
    pub(super) architecture: Architecture,
    pub(super) profile: Profile,
    pub(super) binary: Binary,
    pub(super) pages: &'a Pages,
    /// The licences of all crates in the binary.
    pub(super) licences: PathBuf,
}

impl<'a> Files<'a> {
    /// Adds the licences.
    ///
    /// # Errors
    /// Those of [`licences::write`].
    pub(super) fn new(
        architecture: Architecture,
        profile: Profile,
        binary: Binary,
        pages: &'a Pages,
    ) -> Result<Self> {
        let licences = binary.program.with_file_name(licences::FILE);
        licences::write(architecture, &licences)?;
        Ok(Self { architecture, profile, binary, pages, licences })
    }
}

/// Copies the files of a folder, which contains no other one.
///
/// # Errors
/// A file can't be copied.
pub(super) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        folders::copy(&entry.path(), &to.join(entry.file_name()), 0o644)?;
    }
    Ok(())
}
