// SPDX-License-Identifier: Apache-2.0
//! The image for containers: the binary and its licences, for all architectures. buildah makes it, without a daemon, and
//! runs nothing in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::archive;
use super::binary::PROGRAM;
use super::files::Files;
use super::folders;
use super::revision::{Revision, VERSION};
use crate::shell;

/// Whose images may be used: all, because none is. buildah wants to be told.
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Writes the image as an archive with the layout of OCI.
///
/// # Errors
/// buildah is missing or fails.
pub(super) fn write(all: &[Files<'_>], revision: &Revision) -> Result<()> {
    let folder = folders::build().join("image");
    folders::replace(&folder)?;
    fs::write(folder.join("policy.json"), POLICY).context("cannot write the policy of the image")?;
    let name = format!("llb:{}", VERSION);
    shell::run(buildah(&folder).args(["manifest", "create", &name]))?;
    for files in all {
        let image = format!("{name}-{}", files.architecture.oci());
        commit(&folder, &image, files, revision)?;
        shell::run(buildah(&folder).args(["manifest", "add", &name, &image]))?;
    }
    let layout = folder.join("layout");
    shell::run(
        buildah(&folder)
            .args(["manifest", "push", "--all", "--format", "oci"])
            .arg("--signature-policy")
            .arg(folder.join("policy.json"))
            .arg(&name)
            .arg(format!("oci:{}:{}", layout.display(), VERSION)),
    )?;
    let file = folders::shipped().join(format!("llb-{}-oci.tar", VERSION));
    shell::run(archive::pack(&layout, &file, revision).arg("."))
}

/// Makes the image of one architecture.
fn commit(folder: &Path, image: &str, files: &Files<'_>, revision: &Revision) -> Result<()> {
    let container = shell::run_for_output(buildah(folder).args([
        "from",
        "--arch",
        files.architecture.oci(),
        "--signature-policy",
        &folder.join("policy.json").display().to_string(),
        "scratch",
    ]))?;
    let container = container.trim();
    let program = format!("/usr/bin/{PROGRAM}");
    shell::run(
        buildah(folder)
            .args(["copy", "--quiet", "--chmod", "755", container])
            .arg(&files.binary.program)
            .arg(&program),
    )?;
    shell::run(
        buildah(folder)
            .args(["copy", "--quiet", "--chmod", "644", container, "LICENSE"])
            .arg(&files.licences)
            .arg("/usr/share/licenses/llb/"),
    )?;
    shell::run(
        buildah(folder)
            .args(["config", "--os", "linux", "--arch", files.architecture.oci()])
            .args(["--entrypoint", &format!("[\"{program}\"]")])
            .args(["--label", &format!("org.opencontainers.image.version={}", VERSION)])
            .args(["--label", &format!("org.opencontainers.image.revision={}", revision.name)])
            .args(["--label", "org.opencontainers.image.licenses=Apache-2.0"])
            .arg(container),
    )?;
    shell::run(
        buildah(folder)
            .args(["commit", "--quiet", "--rm", "--format", "oci", "--timestamp"])
            .arg(revision.epoch.to_string())
            .arg("--signature-policy")
            .arg(folder.join("policy.json"))
            .args([container, image]),
    )
}

/// buildah with a store of its own, so that nothing is left on this machine, and nothing of it is used.
fn buildah(folder: &Path) -> Command {
    let mut buildah = shell::command("buildah");
    buildah.arg("--storage-driver").arg("vfs");
    buildah.arg("--root").arg(folder.join("store")).arg("--runroot").arg(folder.join("run"));
    buildah.env("BUILDAH_ISOLATION", "chroot");
    buildah
}
