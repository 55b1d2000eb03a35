// SPDX-License-Identifier: Apache-2.0
//! `bench relay`, `e2e` and `flood`: builds the agent for speed and starts llb-bench,
//! a program of package llb-tests, for one of its benches; installs what llb is
//! compared with. Measures nothing itself.

use anyhow::{Result, bail};

use crate::{build_ebpf, setup, shell};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Passed on: --rounds N, --seconds S; `-- --help` shows what there is
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<String>,
}

/// `bench`: which one, as llb-bench calls it. Ends when the bench does.
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
