// SPDX-License-Identifier: Apache-2.0
//! Asks this machine's kernel what it thinks of the programs of an object:
//! whether it takes them, and how many instructions its verifier went through.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::Program;
use aya::{EbpfLoader, VerifierLogLevel};

/// A program that the kernel took.
pub(crate) struct Verified {
    /// Its name.
    pub(crate) name: String,
    /// Instructions on all paths that the verifier followed; it gives up at a million.
    pub(crate) steps: u32,
}

/// Loads all programs, one by one, and forgets them.
///
/// # Errors
/// Not root, or the kernel takes one of them not; the end of its log is in the error.
pub(crate) fn verify(object: &Path) -> Result<Vec<Verified>> {
    let bytes = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut ebpf = EbpfLoader::new().verifier_log_level(VerifierLogLevel::STATS).load(&bytes)?;
    let mut verified = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            Program::SkSkb(program) => program.load(),
            _ => continue,
        };
        loaded.with_context(|| format!("the kernel refused program {name}"))?;
        let steps = program.info()?.verified_instruction_count().unwrap_or_default();
        verified.push(Verified { name: name.to_owned(), steps });
    }
    Ok(verified)
}
