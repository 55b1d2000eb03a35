// SPDX-License-Identifier: Apache-2.0
//! `llb-agent`: parses the command line, runs the command, returns the exit code.

use std::process::ExitCode;

use llb_agent::config::{Cli, Invocation, log_filter};
use llb_agent::error_chain::ErrorChain;
use llb_agent::{agent, telemetry};

fn main() -> ExitCode {
    let invocation = match Cli::read() {
        Ok(invocation) => invocation,
        Err(error) => Cli::refuse(&ErrorChain(&error)),
    };
    let filter = match &invocation {
        Invocation::Serve(configured) => Some(configured.config.log.clone()),
        // The findings say the same as this error, and more clearly.
        Invocation::Doctor(..) => Some(log_filter().unwrap_or_else(|| "off".to_owned())),
        _ => log_filter(),
    };
    telemetry::init_logs(filter.as_deref());
    let serves = matches!(invocation, Invocation::Serve(_));
    match agent::main(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = ErrorChain(error.as_ref());
            // A person started a subcommand, and often reads its output from a pipe.
            if serves {
                tracing::error!("{error}")
            } else {
                eprintln!("error: {error}")
            }
            ExitCode::FAILURE
        }
    }
}
