// SPDX-License-Identifier: Apache-2.0
//! The eBPF programs in the kernel of this machine: what they do to one packet, and how they live on a link.
//! All of it needs root: run it with `cargo xtask test --only ebpf`.
//!
//! A green test does not prove that other kernels accept and run the programs alike: `cargo xtask test` runs on
//! one kernel. `packet`, `table` and `random` give frames to the programs by BPF_PROG_TEST_RUN, so no driver,
//! no link and no other program takes part.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test, also in functions that tests share")]

mod bench;
mod clsact;
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

/// The object file that `cargo xtask build-ebpf` has built; the agent contains the same bytes.
fn object() -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/packet.o");
    fs::read(&path).with_context(|| format!("no {}: run `cargo xtask build-ebpf`", path.display()))
}

/// A bpffs for one test. Dropping it unmounts it, which removes all that is pinned there.
struct PrivateBpffs {
    folder: tempfile::TempDir,
}

impl PrivateBpffs {
    fn mount() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        mount("bpf", folder.path(), "bpf", MountFlags::empty(), None).context("cannot mount a bpffs")?;
        Ok(Self { folder })
    }

    /// The folder in it where llb pins its objects.
    fn bpf_dir(&self) -> PathBuf {
        self.folder.path().join("llb")
    }
}

impl Drop for PrivateBpffs {
    fn drop(&mut self) {
        // Detached, because it must not outlive the test even if something still uses it.
        if let Err(error) = unmount(self.folder.path(), UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.folder.path().display());
        }
    }
}
