// SPDX-License-Identifier: Apache-2.0
//! The folders of everything that is built, and files in them. Knows no file by its name.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::shell;

/// Everything that is shipped is here.
pub(super) fn shipped() -> PathBuf {
    shell::workspace().join("target/dist")
}

/// What is needed on the way, but not shipped.
pub(super) fn build() -> PathBuf {
    shell::workspace().join("target/dist-build")
}

/// An empty folder, whatever was there.
///
/// # Errors
/// It can't be removed or made.
pub(super) fn replace(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Copies a file, makes the folder that it goes to, and gives it this mode whatever the original has.
///
/// # Errors
/// It can't be read or written.
pub(super) fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", to.display()))
}
