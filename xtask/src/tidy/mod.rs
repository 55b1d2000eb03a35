// SPDX-License-Identifier: Apache-2.0
//! The house rules that a program can check, by reading files and nothing else. What the compiler, rustfmt or clippy
//! can check is left to them.
//!
//! One file per rule, and the reason for the rule in its first lines. A rule that has a table of its own also
//! complains about each entry of the table that nothing needs.

mod circles;
mod crates;
mod floors;
mod imports;
mod links;
mod modules;
mod shape;
mod source;
mod spdx;
mod unsafe_code;
mod vocabulary;

use anyhow::{Result, bail};

use self::modules::Modules;
use self::source::{Complaint, Source};
use crate::shell;

/// Checks every file that git knows or would add.
///
/// # Errors
/// A rule is broken. All complaints are printed, with file and line.
pub(crate) fn run() -> Result<()> {
    let sources = source::all()?;
    let complaints = check(&sources);
    for complaint in &complaints {
        println!("{complaint}");
    }
    if !complaints.is_empty() {
        bail!("tidy: {} complaints; xtask/src/tidy says why each rule exists", complaints.len());
    }
    println!("tidy: {} files", sources.len());
    Ok(())
}

fn check(sources: &[Source]) -> Vec<Complaint> {
    let (modules, mut complaints) = Modules::read(sources);
    let arrows = modules.arrows();
    complaints.extend(circles::check(&modules, &arrows));
    complaints.extend(floors::check(&modules, &arrows));
    complaints.extend(crates::check(&modules));
    complaints.extend(vocabulary::check(sources));
    complaints.extend(unsafe_code::check(sources));
    for source in sources {
        complaints.extend(spdx::check(source));
        if source.path.ends_with(".rs") {
            complaints.extend(shape::check(source));
        } else if source.path.ends_with(".md") {
            complaints.extend(links::check(source, |path| shell::workspace().join(path).exists()));
        }
    }
    complaints
}
