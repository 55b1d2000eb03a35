// SPDX-License-Identifier: Apache-2.0
//! Provides a plain Debian with systemd for the tests of llb's package: the image of a disk, made once per machine.
//! Nothing is installed on this machine but the programs that make the image.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{setup, shell};

const RELEASE: &str = "bookworm";

/// Beyond the essential packages: what every installed Debian has, and networkd for the addresses.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,kmod,iproute2,procps";

/// Done before the first boot. With a number of its own the machine does not take that for an installation.
const PREPARATION: [&str; 2] = [
    "chroot \"$1\" systemctl enable systemd-networkd",
    "echo 0123456789abcdef0123456789abcdef > \"$1/etc/machine-id\"",
];

/// Of the disk. What is not written takes no room.
const SIZE: &str = "1G";

/// The image.
///
/// # Errors
/// The archive can't be reached, and no image was made before.
pub(crate) fn provide() -> Result<PathBuf> {
    setup::install(&setup::DEBIAN_TOOLS)?;
    let cache = shell::cache()?.join("debian");
    let image = cache.join(format!("{RELEASE}.img"));
    if image.is_file() {
        return Ok(image);
    }
    let (root, draft) = (cache.join(format!("{RELEASE}.draft")), cache.join(format!("{RELEASE}.img.draft")));
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let mut make = shell::command("mmdebstrap");
    make.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}")]);
    make.args(PREPARATION.iter().map(|command| format!("--customize-hook={command}")));
    shell::run(make.arg(RELEASE).arg(&root))?;
    let mke2fs = shell::find("mke2fs").context("mke2fs is missing; it is part of the package e2fsprogs")?;
    let mut write = shell::command(mke2fs);
    shell::run(write.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&root).arg(&draft).arg(SIZE))?;
    fs::remove_dir_all(&root)?;
    // From here on it is whole.
    fs::rename(&draft, &image).context("cannot put Debian into the cache")?;
    Ok(image)
}
