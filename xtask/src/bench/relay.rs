//! Builds the agent for speed and starts the bench of the relay, a program of
//! package llb-tests; installs what it is compared with. Measures nothing itself.

use anyhow::{Result, bail};

use crate::{build_ebpf, setup, shell};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Passed on: --rounds N, --seconds S
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<String>,
}

/// Ends when the bench does.
///
/// # Errors
/// Something is missing, can't be built, or the bench failed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
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
            .args(["run", "--release", "--quiet", "--package=llb-tests", "--bin=llb-bench", "--"])
            .args(&arguments.passed_on),
    )
}
