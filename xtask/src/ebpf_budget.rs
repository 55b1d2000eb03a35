// SPDX-License-Identifier: Apache-2.0
//! Holds the programs to the limits of `llb-ebpf/budget.toml`. Growth must be noticed early: a verifier refuses a program
//! that is too complex without a warning, and some kernels refuse it sooner than others.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::shell;

/// The limits of one program.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    instructions: u64,
    verifier_steps: u64,
}

/// The limits of all programs, by name.
pub(crate) struct Budget(BTreeMap<String, Limits>);

impl Budget {
    /// Reads the file.
    ///
    /// # Errors
    /// The file is missing or has another form.
    pub(crate) fn read() -> Result<Self> {
        let path = shell::workspace().join("llb-ebpf/budget.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).map(Self).with_context(|| format!("cannot understand {}", path.display()))
    }

    /// # Errors
    /// The program has too many instructions, or no limit is set for it.
    pub(crate) fn check_instructions(&self, program: &str, instructions: u64) -> Result<()> {
        check(program, "instructions", instructions, self.limits(program)?.instructions)
    }

    /// # Errors
    /// The kernel's verifier takes too many steps, or no limit is set for the program.
    pub(crate) fn check_steps(&self, program: &str, steps: u64) -> Result<()> {
        check(program, "steps of the verifier", steps, self.limits(program)?.verifier_steps)
    }

    fn limits(&self, program: &str) -> Result<&Limits> {
        match self.0.get(program) {
            Some(limits) => Ok(limits),
            None => bail!("llb-ebpf/budget.toml has no limits for program {program}"),
        }
    }
}

fn check(program: &str, what: &str, found: u64, most: u64) -> Result<()> {
    ensure!(found <= most, "program {program} has {found} {what}, llb-ebpf/budget.toml allows {most}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_budget_is_refused() {
        let limits = Limits { instructions: 10, verifier_steps: 20 };
        let budget = Budget(BTreeMap::from([("llb_xdp".to_owned(), limits)]));
        budget.check_instructions("llb_xdp", 10).unwrap();
        budget.check_steps("llb_xdp", 20).unwrap();
        assert!(budget.check_instructions("llb_xdp", 11).is_err());
        assert!(budget.check_steps("llb_xdp", 21).is_err());
        assert!(budget.check_steps("llb_tc", 1).is_err());
    }

    #[test]
    fn the_file_is_understood() {
        Budget::read().unwrap();
    }
}
