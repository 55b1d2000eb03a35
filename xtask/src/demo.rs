// SPDX-License-Identifier: Apache-2.0
//! Builds everything and starts the demo, a program of package llb-tests.

use anyhow::Result;

use crate::{build_ebpf, setup, shell, test};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of the demo; `cargo xtask demo -- --help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<String>,
}

/// Returns when the demo ends.
///
/// # Errors
/// Something can't be built, or the demo failed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    let agent = test::build_agent("dev")?;
    shell::run(
        shell::command("cargo")
            .env("LLB_AGENT", agent)
            .args(["run", "--quiet", "--package", "llb-tests", "--bin", "llb-demo", "--"])
            .args(&arguments.passed_on),
    )
}
