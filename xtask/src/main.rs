// SPDX-License-Identifier: Apache-2.0
//! The project's own commands: a table of contents. Each command has a file of its own.

mod bench;
mod bpf_linker;
mod build_ebpf;
mod ci;
mod cluster_binaries;
mod debian;
mod demo;
mod dist;
mod ebpf_budget;
mod helm;
mod kernels;
mod object_report;
mod remap;
mod runner;
mod setup;
mod shell;
mod site;
mod stack_depth;
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
    /// Builds the eBPF programs into target/ebpf; quick when nothing changed
    BuildEbpf(build_ebpf::Arguments),
    /// Installs the system packages that tests and demo need, or names the missing ones
    Setup,
    /// Builds everything, then runs the tests; as root, also the tests that need root
    Test(test::Arguments),
    /// Builds everything, then runs the demo, which gets the arguments
    Demo(demo::Arguments),
    /// Measures the optimized agent; writes the results to target/bench
    Bench(bench::Arguments),
    /// Builds what is shipped into target/dist: static binary, packages, image
    Dist(dist::Arguments),
    /// Checks the house rules: import circles, floors, crate homes, file lengths, vocabulary, links
    Tidy,
    /// Builds the site of all documents into target/site/html, and checks its links
    Site,
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
        Command::Dist(arguments) => dist::run(&arguments),
        Command::Tidy => tidy::run(),
        Command::Site => site::run(),
        Command::Ci => ci::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line is enough: the command that failed printed its own output above.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
