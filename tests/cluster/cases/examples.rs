// SPDX-License-Identifier: Apache-2.0
//! The files of examples/ are what a real API server accepts. Whether llb serves them is in tests/docs/.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::case::Case;

pub(crate) fn the_api_server_accepts_every_example(case: &mut Case<'_>) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?.join("examples");
    let mut applied = 0;
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let file = path.to_str().context("not a text")?;
        // The server checks and fills in everything, and unknown fields are errors; nothing is stored.
        case.cluster.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", file])?;
        applied += 1;
    }
    anyhow::ensure!(applied > 5, "{} has only {applied} examples", folder.display());
    Ok(())
}
