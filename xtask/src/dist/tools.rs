// SPDX-License-Identifier: Apache-2.0
//! The system's programs that building needs.

use anyhow::Result;

use super::architecture::Architecture;
use crate::setup;

/// Installs them, or names the missing ones.
///
/// # Errors
/// One is missing and can't be installed here.
pub(super) fn install(architectures: &[Architecture]) -> Result<()> {
    setup::install(&setup::DIST_TOOLS)?;
    if architectures.contains(&Architecture::Aarch64) {
        setup::install(&setup::AARCH64_TOOLS)?;
    }
    Ok(())
}
