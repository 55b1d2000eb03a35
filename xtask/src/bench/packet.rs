// SPDX-License-Identifier: Apache-2.0
//! `bench packet`: builds the eBPF programs and starts llb-bench-packet.

use anyhow::{Result, ensure};

use crate::{build_ebpf, shell};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of the bench; `cargo xtask bench packet -- --help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<String>,
}

/// Returns when all kinds of packets are measured.
///
/// # Errors
/// Not root, something can't be built, or a packet was not forwarded.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "it needs root, to load eBPF programs; use sudo");
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    // The measured code runs in the kernel, so the program beside it needs no optimization.
    shell::run(
        shell::command("cargo")
            .args(["run", "--quiet", "--package", "llb-tests", "--bin", "llb-bench-packet", "--"])
            .arg("--json")
            .arg(shell::workspace().join("target/bench/packet.json"))
            .args(&arguments.passed_on),
    )
}
