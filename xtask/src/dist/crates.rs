// SPDX-License-Identifier: Apache-2.0
//! The crates whose code is in the binary, from what cargo says. What only runs while something is compiled is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::architecture::Architecture;
use super::binary::PROGRAM;
use crate::shell;

/// One crate.
#[derive(Deserialize)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    /// An expression of SPDX; some crates write `/` in place of `OR`.
    pub(super) license: String,
    pub(super) manifest_path: PathBuf,
    /// The registry that it comes from; llb's own crates have none.
    pub(super) source: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
}

/// All of them, in the order of their names; llb's own are among them.
///
/// # Errors
/// Cargo can't list them, or one names no licence.
pub(super) fn linked(architecture: Architecture) -> Result<Vec<Crate>> {
    let mut cargo = shell::command("cargo");
    cargo.args(["tree", "--locked", "--package", PROGRAM, "--target", architecture.triple()]);
    cargo.args(["--edges", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe", "--format", "{p}"]);
    let tree = shell::output(&mut cargo)?;
    // A line is `name v1.2.3`; behind llb's own crates comes a folder.
    let linked: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let mut cargo = shell::command("cargo");
    let metadata = shell::output(cargo.args(["metadata", "--locked", "--format-version=1"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("cannot read `cargo metadata`")?;
    let mut crates = metadata.packages;
    crates.retain(|one| linked.contains(&(&one.name, &one.version)));
    crates.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    Ok(crates)
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The SHA-256 sums of published crates, by name and version, from Cargo.lock.
///
/// # Errors
/// It can't be read.
pub(super) fn checksums() -> Result<BTreeMap<(String, String), String>> {
    let text = fs::read_to_string(shell::workspace().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let lock: Lock = toml::from_str(&text).context("cannot read Cargo.lock")?;
    let sum = |locked: Locked| Some(((locked.name, locked.version), locked.checksum?));
    Ok(lock.package.into_iter().filter_map(sum).collect())
}
