//! The eBPF objects that `cargo xtask build-ebpf` has built: the bytes that are
//! also in the agent.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The object `packet`.
///
/// # Errors
/// It was not built.
pub fn packet_object() -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/packet.o");
    fs::read(&path).with_context(|| format!("no {}: run `cargo xtask build-ebpf`", path.display()))
}
