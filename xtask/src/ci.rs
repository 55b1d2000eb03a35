// SPDX-License-Identifier: Apache-2.0
//! Everything that must pass before a change is merged, cheapest first.

use std::path::PathBuf;

use anyhow::Result;

use crate::{shell, site, test, tidy};

/// Pinned, because a newer version may have new complaints.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Runs the checks one after the other and stops at the first that fails.
///
/// # Errors
/// A check failed.
pub(crate) fn run() -> Result<()> {
    shell::run(shell::command("cargo").args(["fmt", "--all", "--check"]))?;
    tidy::run()?;
    shell::run(shell::command("cargo").args(["clippy", "--all-targets", "--", "-D", "warnings"]))?;
    shell::run(shell::command("cargo").env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--no-deps"]))?;
    site::run()?;
    deny()?;
    test::run(&test::Arguments::default())
}

/// Checks licences, duplicates and origins of the crates that we use, and known vulnerabilities if their list can be
/// fetched.
fn deny() -> Result<()> {
    let cargo_deny = provide_cargo_deny()?;
    let deny = || {
        let mut command = shell::command(&cargo_deny);
        command.args(["--config", ".deny.toml"]);
        command
    };
    shell::run(deny().args(["check", "bans", "licenses", "sources"]))?;
    match shell::run(deny().args(["fetch", "db"])) {
        Ok(()) => shell::run(deny().args(["check", "advisories"])),
        Err(error) => {
            println!(
                "the list of known vulnerabilities can't be fetched, so this check is skipped: {error:#}"
            );
            Ok(())
        }
    }
}

fn provide_cargo_deny() -> Result<PathBuf> {
    let root = shell::cache()?.join(format!("tools/cargo-deny-{CARGO_DENY_VERSION}"));
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        println!("cargo-deny {CARGO_DENY_VERSION} is built once per machine; this takes some minutes");
        shell::run(
            shell::foreign_build("cargo")
                .args(["install", "cargo-deny", "--version", CARGO_DENY_VERSION, "--locked", "--root"])
                .arg(&root),
        )?;
    }
    Ok(program)
}
