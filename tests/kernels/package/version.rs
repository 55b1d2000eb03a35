// SPDX-License-Identifier: Apache-2.0
//! The package with another version: for an upgrade there must be two.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Writes `package` to `target`, with `version` in place of its own. What is in between is in `folder`.
pub(super) fn with_version(package: &Path, version: &str, target: &Path, folder: &Path) -> Result<()> {
    let unpacked = folder.join(format!("package-{version}"));
    dpkg_deb(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&unpacked))?;
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control).with_context(|| format!("no {}", control.display()))?;
    let lines = text.lines().map(|line| match line.starts_with("Version: ") {
        true => format!("Version: {version}\n"),
        false => format!("{line}\n"),
    });
    fs::write(&control, lines.collect::<String>())?;
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&unpacked).arg(target);
    dpkg_deb(&mut build)?;
    Ok(fs::remove_dir_all(unpacked)?)
}

fn dpkg_deb(command: &mut Command) -> Result<()> {
    let output = command.output().context("cannot start dpkg-deb")?;
    ensure!(output.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
