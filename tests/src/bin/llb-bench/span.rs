// SPDX-License-Identifier: Apache-2.0
//! What the benchmarks share on their command lines: how long they take, and where their results go.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Limits, beyond which nobody would wait for a benchmark.
const MAX_ROUNDS: u32 = 50;
const MAX_SECONDS: u32 = 60;

/// How long a benchmark takes, and where its results go.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Span {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ROUNDS)))]
    pub(crate) rounds: u32,
    /// How long one probe takes [default: 2 for relay, 1 for e2e, 3 for flood]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SECONDS)))]
    pub(crate) seconds: Option<u32>,
    /// Where the JSON file and the plots are written
    #[arg(long, default_value = "target/bench")]
    pub(crate) out: PathBuf,
}

/// Writes files into the folder of results.
pub(crate) fn write_results(folder: &Path, files: &[(&str, String)]) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (file, content) in files {
        let path = folder.join(file);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
