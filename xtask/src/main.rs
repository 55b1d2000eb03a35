// SPDX-License-Identifier: Apache-2.0
//! The project's own commands: a table of contents, one file for each.

mod bench;
mod bpf_linker;
mod build_ebpf;
mod ci;
mod cluster_binaries;
mod demo;
mod ebpf_budget;
mod object_report;
mod setup;
mod shell;
mod test;
mod tidy;
mod verifier;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the eBPF programs into target/ebpf/packet.o; quick when nothing changed
    BuildEbpf(build_ebpf::Arguments),
    /// Installs the system packages that tests and demo need, or names those that are missing
    Setup,
    /// Builds everything, then runs the tests; as root also those that need root
    Test(test::Arguments),
    /// Builds everything, then runs the demo; arguments are passed on to it
    Demo(demo::Arguments),
    /// Measures the optimized agent; the results go to target/bench
    Bench(bench::Arguments),
    /// Checks the house rules: floors, crate homes, file lengths, vocabulary, links
    Tidy,
    /// Everything that must pass before a change is merged
    Ci,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::BuildEbpf(arguments) => build_ebpf::run(&arguments),
        Command::Setup => setup::run(),
        Command::Test(arguments) => test::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Tidy => tidy::run(),
        Command::Ci => ci::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: what failed has said more above.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
