// SPDX-License-Identifier: Apache-2.0
//! Where the object files are that `cargo xtask build-ebpf` has built.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The bytes of an object file; `name` is its path in the target folder.
pub(crate) fn read(name: &str) -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(name);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}
