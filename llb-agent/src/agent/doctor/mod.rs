// SPDX-License-Identifier: Apache-2.0
//! `llb-agent doctor`: what keeps llb from serving here, or makes it slower, and what to do about it. It needs no running
//! agent, and looks at the configuration that the agent would run with. It changes nothing on the machine; the only
//! frames from which neighbours may learn something new are those of `--try-address`.
//!
//! ```text
//!   collect/  machine, links, segment, source, nodes    all I/O
//!      `--> Facts            facts.rs                   plain data
//!              `--> judge/   one file for each subject  pure
//!                     `--> [Finding]  finding.rs        check.rs has the names of the checks
//!                              `--> report.rs           text and JSON
//! ```

mod check;
mod collect;
mod facts;
mod finding;
mod judge;
mod policy;
mod report;
#[cfg(test)]
mod sample;
mod used;

use anyhow::bail;

pub use self::check::CheckId;
use self::finding::Level;
use crate::config::{Config, DoctorArgs, DoctorOutput};

/// Prints what it finds.
///
/// # Errors
/// At least one finding is an error.
pub(super) async fn run(config: &Config, args: &DoctorArgs) -> anyhow::Result<()> {
    let facts = collect::all(config, args.try_address).await;
    let findings = judge::all(config, &facts);
    match args.output {
        DoctorOutput::Table => print!("{}", report::table(&findings)),
        DoctorOutput::Json => println!("{}", report::json(&findings)?),
    }
    match report::count(&findings, Level::Error) {
        0 => Ok(()),
        errors => bail!("findings that are errors: {errors}; llb would not serve, or not everything"),
    }
}
