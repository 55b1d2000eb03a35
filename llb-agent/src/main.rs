// SPDX-License-Identifier: Apache-2.0
//! `llb-agent`: parses the command line, runs the command, returns the exit code.

use std::process::ExitCode;

use clap::Parser;
use llb_agent::config::{Cli, log_filter};
use llb_agent::{agent, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init_logs(log_filter().as_deref());
    match agent::main(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
