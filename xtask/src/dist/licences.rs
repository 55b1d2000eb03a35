// SPDX-License-Identifier: Apache-2.0
//! The licences of the crates of others in the binary. All of them are permissive (`.deny.toml`), and most ask for one
//! thing: that their text goes along with the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::architecture::Architecture;
use super::binary::PROGRAM;
use super::crates;

/// The file, in packages and image.
pub(super) const FILE: &str = "third-party-licenses.txt";

/// How files with licences are called, in capitals.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// Writes the file.
///
/// # Errors
/// Cargo can't list the crates, or a file can't be read or written.
pub(super) fn write(architecture: Architecture, file: &Path) -> Result<()> {
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut text = format!("The binary {PROGRAM} contains code of these crates:\n\n");
    for one in crates::linked(architecture)?.iter().filter(|one| one.source.is_some()) {
        let name = format!("{} {}", one.name, one.version);
        writeln!(text, "{name}: {}", one.license)?;
        for licence in texts(&one.manifest_path)? {
            users.entry(licence).or_default().insert(name.clone());
        }
    }
    for (licence, users) in users {
        let users = users.into_iter().collect::<Vec<_>>().join(", ");
        writeln!(text, "\n{}\n{users}\n\n{licence}", "-".repeat(80))?;
    }
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// What the crate says about its licence, in its own files.
fn texts(manifest: &Path) -> Result<Vec<String>> {
    let folder = manifest.parent().context("a manifest without a folder")?;
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
            files.push(path);
        }
    }
    files.sort();
    files.iter().map(|file| Ok(String::from_utf8_lossy(&fs::read(file)?).trim_end().to_owned())).collect()
}
