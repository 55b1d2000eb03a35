// SPDX-License-Identifier: Apache-2.0
//! The package with a higher version: for an upgrade there must be two.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Writes `package` to `target` with a higher version, and returns that. What is in between is in `folder`.
pub(super) fn newer(package: &Path, target: &Path, folder: &Path) -> Result<String> {
    let unpacked = folder.join("newer-package");
    dpkg_deb(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&unpacked))?;
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control).with_context(|| format!("no {}", control.display()))?;
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
    let version = version.context("the package has no version")?;
    let newer = format!("{version}+newer");
    fs::write(&control, text.replace(&format!("Version: {version}\n"), &format!("Version: {newer}\n")))?;
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&unpacked).arg(target);
    dpkg_deb(&mut build)?;
    fs::remove_dir_all(unpacked)?;
    Ok(newer)
}

fn dpkg_deb(command: &mut Command) -> Result<()> {
    let output = command.output().context("cannot start dpkg-deb")?;
    ensure!(output.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
