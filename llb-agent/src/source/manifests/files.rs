// SPDX-License-Identifier: Apache-2.0
//! Lists and reads manifest files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A larger file is surely not a manifest.
const LARGEST_FILE: u64 = 64 << 20;

/// The manifest files of a folder, sorted.
pub(super) fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let known = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
        // A file that cannot be inspected is not gone. Reading it will report why.
        let is_file = || path.metadata().map_or(true, |metadata| metadata.is_file());
        if known && !name.starts_with('.') && is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

pub(super) fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let size = path.metadata()?.len();
    if size > LARGEST_FILE {
        return Err(io::Error::other(format!(
            "it has {size} bytes; a manifest may have at most {LARGEST_FILE}"
        )));
    }
    fs::read(path)
}
