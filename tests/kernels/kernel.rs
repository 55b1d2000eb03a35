// SPDX-License-Identifier: Apache-2.0
//! A kernel of a distribution, unpacked into a folder, and the small file system with which it starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// What the guest needs before it has its root file system. What is built into the kernel is in no list of modules.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_blk",
    // ext4 loads it itself, with a program that is not there.
    "crc32c_generic",
    "ext4",
];

/// The guest's first process. Its root is the disk, if it has one. Else it is the host's, below a layer of its own that
/// keeps what it writes.
const INIT: &str = include_str!("init.sh");

/// A kernel that a machine can run.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    folder: PathBuf,
    /// Like `6.1.0-56-amd64`.
    pub(crate) release: String,
}

impl Kernel {
    /// The kernel in this folder of the cache.
    pub(crate) fn in_folder(folder: PathBuf) -> Result<Self> {
        let release =
            folder.file_name().and_then(|name| name.to_str()).context("a kernel's folder has no name")?;
        Ok(Self { release: release.to_owned(), folder })
    }

    /// Its first two numbers, like `6.1`.
    pub(crate) fn series(&self) -> &str {
        self.release.match_indices('.').nth(1).map_or(&self.release, |(end, _)| &self.release[..end])
    }

    /// The file that starts.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// Writes the first file system to `archive`. `guest` is the program that takes commands.
    pub(crate) fn write_initramfs(&self, archive: &Path, guest: &Path) -> Result<()> {
        let root = archive.with_extension("d");
        for folder in ["bin", "modules", "proc", "sys", "dev", "host", "upper", "root"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let busybox = find("busybox")?;
        fs::copy(&busybox, root.join("bin/busybox"))?;
        for (number, module) in self.modules()?.iter().enumerate() {
            let name = module.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let target = root.join(format!("modules/{number:02}-{}", name.trim_end_matches(".xz")));
            if name.ends_with(".xz") {
                let unpacked = Command::new(&busybox).args(["unxz", "-c"]).arg(module).output()?;
                ensure!(unpacked.status.success(), "cannot unpack {}", module.display());
                fs::write(target, unpacked.stdout)?;
            } else {
                fs::copy(module, target)?;
            }
        }
        let init = INIT
            .replace("@MODULES@", &self.folder.join("lib/modules").to_string_lossy())
            .replace("@GUEST@", &guest.to_string_lossy());
        fs::write(root.join("init"), init)?;
        let status = Command::new("sh")
            .args(["-c", "chmod +x init && find . | \"$0\" cpio -o -H newc > \"$1\""])
            .arg(&busybox)
            .arg(archive)
            .current_dir(&root)
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "cannot write {}", archive.display());
        Ok(fs::remove_dir_all(root)?)
    }

    /// The files of [`MODULES`] and of what they need, in the order in which they can be loaded.
    fn modules(&self) -> Result<Vec<PathBuf>> {
        let folder = self.folder.join("lib/modules").join(&self.release);
        let list = folder.join("modules.dep");
        let list = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        Ok(in_order(&list, &MODULES).into_iter().map(|module| folder.join(module)).collect())
    }
}

/// Where a program of the system is. Some systems keep system programs off PATH.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    llb_tests::environment::program_folders()
        .into_iter()
        .chain(more)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .with_context(|| {
            format!("{program} is missing: run `cargo xtask test --only kernels`, which installs it")
        })
}

/// Reads modules.dep(5): each line has a module, then all that it needs, the first one to load last.
fn in_order<'a>(list: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let lines = || list.lines().filter_map(|line| line.split_once(':'));
    let is = |file: &str, name: &str| {
        let file = file.rsplit('/').next().unwrap_or_default();
        file.split('.').next().unwrap_or_default().replace('-', "_") == name
    };
    let mut order = Vec::new();
    for name in wanted {
        let Some((module, needs)) = lines().find(|(module, _)| is(module, name)) else { continue };
        for file in needs.split_whitespace().rev().chain([module]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let list =
            "kernel/a.ko: kernel/c.ko.xz kernel/b-b.ko\nkernel/b-b.ko:\nkernel/c.ko.xz: kernel/b-b.ko\n";
        assert_eq!(
            in_order(list, &["built_in", "b_b", "a"]),
            ["kernel/b-b.ko", "kernel/c.ko.xz", "kernel/a.ko"]
        );
    }

    #[test]
    fn a_series_is_two_numbers() {
        for (folder, series) in [("/x/6.1.0-56-amd64", "6.1"), ("/x/6.12.117+deb12-amd64", "6.12")] {
            assert_eq!(Kernel::in_folder(folder.into()).unwrap().series(), series);
        }
    }
}
