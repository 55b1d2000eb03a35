// SPDX-License-Identifier: Apache-2.0
//! The eBPF programs in this machine's kernel: what they do to one packet,
//! and how they live at a link. Everything here needs root; run it with
//! `cargo xtask test --only ebpf`.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail the test")]

mod frames;
mod link;
mod model;
mod packet;
mod plane;
mod programs;
mod random;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// What `cargo xtask build-ebpf` has built: the bytes that are also in the agent.
fn object() -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/packet.o");
    fs::read(&path).with_context(|| format!("no {}: run `cargo xtask build-ebpf`", path.display()))
}

/// A bpffs of the test's own. Dropping it unmounts it, and with it goes
/// everything that was pinned there.
struct PrivateBpffs {
    folder: tempfile::TempDir,
}

impl PrivateBpffs {
    fn mount() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        mount("bpf", folder.path(), "bpf", MountFlags::empty(), None).context("cannot mount a bpffs")?;
        Ok(Self { folder })
    }

    /// Where llb pins, inside of it.
    fn bpf_dir(&self) -> PathBuf {
        self.folder.path().join("llb")
    }
}

impl Drop for PrivateBpffs {
    fn drop(&mut self) {
        // Also when somebody is still in it: it must not outlive the test.
        if let Err(error) = unmount(self.folder.path(), UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.folder.path().display());
        }
    }
}
