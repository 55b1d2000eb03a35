// SPDX-License-Identifier: Apache-2.0
//! `bench control`: builds the agent with optimization and starts llb-bench-control.

use anyhow::{Result, ensure};

use crate::{cluster_binaries, setup, shell, test};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of the bench; `cargo xtask bench control -- --help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<String>,
}

/// Returns when all rows are measured.
///
/// # Errors
/// Not root, something can't be built, or a row misses its target.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "it needs root, to create network namespaces; use sudo");
    setup::run()?;
    cluster_binaries::provide()?;
    let agent = test::build_agent("release")?;
    // The measuring program waits nearly all of the time, so it needs no optimization.
    shell::run(
        shell::command("cargo")
            .env("LLB_AGENT", agent)
            .args(["run", "--quiet", "--package", "llb-tests", "--bin", "llb-bench-control", "--"])
            .arg("--json")
            .arg(shell::workspace().join("target/bench/control.json"))
            .args(&arguments.passed_on),
    )
}
