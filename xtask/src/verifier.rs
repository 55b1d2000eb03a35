// SPDX-License-Identifier: Apache-2.0
//! Loads the programs of an object into this machine's kernel: does it accept them, and how many instructions does its
//! verifier process?

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::Program;
use aya::{EbpfLoader, VerifierLogLevel};

/// A program that the kernel accepted.
pub(crate) struct Verified {
    pub(crate) name: String,
    /// Instructions that the verifier processed on all paths; its limit is a million.
    pub(crate) steps: u32,
}

/// Loads all programs, one by one, and unloads them.
///
/// # Errors
/// Not root, or the kernel refuses a program; the error contains the end of the verifier's log.
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
