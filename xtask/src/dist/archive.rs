// SPDX-License-Identifier: Apache-2.0
//! Archives for systems without deb and rpm, those with the debug information, and the sums of all that is shipped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::binary::{PROGRAM, Profile};
use super::files::{Files, copy_folder};
use super::folders;
use super::licences;
use super::revision::{Revision, VERSION};
use crate::shell;

/// What is in the archive beside the program, its man pages and its completions.
const MORE: [&str; 6] = [
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "deploy/llb.toml",
    "deploy/systemd/llb.service",
    "llb-agent/deploy/rbac.yaml",
];

/// Writes the archive with the program, and the one with its debug information.
///
/// # Errors
/// They can't be written.
pub(super) fn write(files: &Files<'_>, revision: &Revision) -> Result<()> {
    let name = format!("llb-{}-{}", VERSION, files.architecture.triple());
    let stage = folders::build().join("archive");
    folders::replace(&stage)?;
    let folder = stage.join(&name);
    folders::copy(&files.binary.program, &folder.join(PROGRAM), 0o755)?;
    copy_folder(&files.pages.man, &folder.join("man"))?;
    copy_folder(&files.pages.completions, &folder.join("completions"))?;
    folders::copy(&files.licences, &folder.join(licences::FILE), 0o644)?;
    for path in MORE {
        let file = Path::new(path).file_name().context("a file without a name")?;
        folders::copy(&shell::workspace().join(path), &folder.join(file), 0o644)?;
    }
    compress(&stage, &name, files, revision)?;
    let name = format!("{name}-debug");
    let folder = stage.join(&name);
    folders::copy(&files.binary.debug, &folder.join(format!("{PROGRAM}.debug")), 0o644)?;
    compress(&stage, &name, files, revision)
}

/// Packs the folder `name` of `stage`.
fn compress(stage: &Path, name: &str, files: &Files<'_>, revision: &Revision) -> Result<()> {
    let archive = folders::shipped().join(format!("{name}.tar.gz"));
    let level = if files.profile == Profile::Dist { 9 } else { 1 };
    let mut tar = pack(stage, &archive, revision);
    shell::run(tar.arg(format!("--use-compress-program=gzip -{level} --no-name")).arg(name))
}

/// A command that packs files of a folder, without anything of this machine: who owns them, when they were written, and in
/// which order the folder has them.
pub(super) fn pack(folder: &Path, archive: &Path, revision: &Revision) -> std::process::Command {
    let mut tar = shell::command("tar");
    tar.arg("--create").arg("--file").arg(archive).arg("--directory").arg(folder);
    tar.args(["--sort=name", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg("--mode=u+rwX,go+rX,go-w").arg(format!("--mtime=@{}", revision.epoch));
    tar
}

/// Writes `SHA256SUMS`, which `sha256sum --check` reads.
///
/// # Errors
/// A file can't be read.
pub(super) fn write_sums() -> Result<()> {
    let folder = folders::shipped();
    let mut names: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| Ok(PathBuf::from(entry?.file_name())))
        .collect::<Result<_>>()?;
    names.sort();
    let sums = shell::output(shell::command("sha256sum").current_dir(&folder).arg("--").args(names))?;
    fs::write(folder.join("SHA256SUMS"), sums).context("cannot write SHA256SUMS")
}
