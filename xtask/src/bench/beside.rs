// SPDX-License-Identifier: Apache-2.0
//! `bench relay`, `e2e`, `flood` and `dns`: builds the optimized agent, installs the programs that llb is compared with, and
//! starts llb-bench of package llb-tests. Measures nothing itself.

use anyhow::{Result, bail};

use crate::{build_ebpf, setup, shell};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of the bench, like --rounds N and --seconds S; `-- --help` shows all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<String>,
}

/// Runs one bench of llb-bench, by its name there. Returns when it ends.
///
/// # Errors
/// Something is missing, can't be built, or the bench failed.
pub(crate) fn run(bench: &str, arguments: &Arguments) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the bench needs root, to create network namespaces");
    }
    setup::run()?;
    setup::install(&setup::BENCH_TOOLS)?;
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    shell::run(shell::command("cargo").args([
        "build",
        "--release",
        "--package=llb-agent",
        "--package=llb-tests",
        "--bin=llb-agent",
        "--bin=llb-bench",
    ]))?;
    shell::run(
        shell::command("cargo")
            .args(["run", "--release", "--quiet", "--package=llb-tests", "--bin=llb-bench", "--", bench])
            .args(&arguments.passed_on),
    )
}
