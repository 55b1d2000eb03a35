// SPDX-License-Identifier: Apache-2.0
//! The packages for Debian and its relatives, and for those of Red Hat: what they install, and where. dpkg-deb and rpmbuild
//! make them from a folder that has everything at its place. deploy/ has what is written by hand.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::architecture::Architecture;
use super::binary::{PROGRAM, Profile};
use super::files::{Files, copy_folder};
use super::folders;
use super::licences;
use super::revision::{Revision, VERSION};
use crate::shell;

/// Of the packages, not of the sources.
const REVISION: &str = "1";

/// What is installed as it is in the sources.
const SOURCES: [(&str, &str); 8] = [
    ("deploy/llb.toml", "etc/llb/llb.toml"),
    ("deploy/systemd/llb.service", "usr/lib/systemd/system/llb.service"),
    ("llb-agent/deploy/rbac.yaml", "usr/share/doc/llb/rbac.yaml"),
    ("CHANGELOG.md", "usr/share/doc/llb/CHANGELOG.md"),
    ("README.md", "usr/share/doc/llb/README.md"),
    ("docs/operations.md", "usr/share/doc/llb/operations.md"),
    ("docs/datapath.md", "usr/share/doc/llb/datapath.md"),
    ("docs/security.md", "usr/share/doc/llb/security.md"),
];

/// What dpkg runs. rpmbuild puts those of `deploy/rpm/` into its package itself.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Writes both packages of an architecture.
///
/// # Errors
/// A file is missing, or a tool fails.
pub(super) fn write(files: &Files<'_>, revision: &Revision) -> Result<()> {
    debian(files, revision)?;
    red_hat(files, revision)
}

/// Puts everything at its place below `root`. Each family of systems has its own folder for completions of zsh.
fn install(files: &Files<'_>, root: &Path, zsh: &str) -> Result<()> {
    folders::replace(root)?;
    folders::copy(&files.binary.program, &root.join("usr/bin").join(PROGRAM), 0o755)?;
    copy_folder(&files.pages.man, &root.join("usr/share/man/man8"))?;
    let completions = &files.pages.completions;
    let bash = root.join("usr/share/bash-completion/completions").join(PROGRAM);
    folders::copy(&completions.join(format!("{PROGRAM}.bash")), &bash, 0o644)?;
    for (file, folder) in
        [(format!("_{PROGRAM}"), zsh), (format!("{PROGRAM}.fish"), "fish/vendor_completions.d")]
    {
        folders::copy(&completions.join(&file), &root.join("usr/share").join(folder).join(&file), 0o644)?;
    }
    for (source, place) in SOURCES {
        folders::copy(&shell::workspace().join(source), &root.join(place), 0o644)?;
    }
    folders::copy(&files.licences, &root.join("usr/share/doc/llb").join(licences::FILE), 0o644)
}

fn debian(files: &Files<'_>, revision: &Revision) -> Result<()> {
    let root = folders::build().join("deb");
    install(files, &root, "zsh/vendor-completions")?;
    let deploy = shell::workspace().join("deploy/debian");
    folders::copy(&deploy.join("copyright"), &root.join("usr/share/doc/llb/copyright"), 0o644)?;
    let installed = below(&root)?;
    let kib = installed
        .iter()
        .try_fold(0, |sum, file| Ok::<_, std::io::Error>(sum + root.join(file).metadata()?.len()))?
        .div_ceil(1024);
    let sums = shell::output(shell::command("md5sum").current_dir(&root).arg("--").args(&installed))?;
    let architecture = files.architecture.oci();
    let control = root.join("DEBIAN");
    fs::create_dir(&control).with_context(|| format!("cannot make {}", control.display()))?;
    let fields = fs::read_to_string(deploy.join("control")).context("cannot read deploy/debian/control")?;
    let fields = format!(
        "Package: llb\nVersion: {VERSION}-{REVISION}\nArchitecture: {architecture}\nInstalled-Size: {kib}\n{fields}"
    );
    for (name, text) in
        [("control", fields), ("md5sums", sums), ("conffiles", "/etc/llb/llb.toml\n".to_owned())]
    {
        fs::write(control.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    for script in SCRIPTS {
        folders::copy(&deploy.join(script), &control.join(script), 0o755)?;
    }
    // Whatever this machine's umask is.
    shell::run(shell::command("chmod").args(["--recursive", "u=rwX,go=rX"]).arg(&root))?;
    let mut build = shell::command("dpkg-deb");
    build.env("SOURCE_DATE_EPOCH", revision.epoch.to_string()).arg("--root-owner-group");
    build.args(match files.profile {
        Profile::Dist => ["-Zxz", "-z9"],
        Profile::DistQuick => ["-Zgzip", "-z1"],
    });
    shell::run(build.arg("--build").arg(&root).arg(debian_package(files.architecture)))
}

/// The package for Debian and its relatives.
pub(crate) fn debian_package(architecture: Architecture) -> PathBuf {
    folders::shipped().join(format!("llb_{VERSION}-{REVISION}_{}.deb", architecture.oci()))
}

fn red_hat(files: &Files<'_>, revision: &Revision) -> Result<()> {
    let folder = folders::build().join("rpm");
    folders::replace(&folder)?;
    let root = folder.join("files");
    install(files, &root, "zsh/site-functions")?;
    let license = root.join("usr/share/licenses/llb/LICENSE");
    folders::copy(&shell::workspace().join("LICENSE"), &license, 0o644)?;
    let compression = match files.profile {
        Profile::Dist => "w9.xzdio",
        Profile::DistQuick => "w1.gzdio",
    };
    let mut build = shell::command("rpmbuild");
    build.env("SOURCE_DATE_EPOCH", revision.epoch.to_string());
    build.args(["-bb", "--quiet", "--target", files.architecture.rpm()]);
    for (name, value) in [
        ("_topdir", folder.display().to_string()),
        ("_rpmdir", folders::shipped().display().to_string()),
        ("_binary_payload", compression.to_owned()),
        ("llb_version", VERSION.to_owned()),
        ("llb_revision", REVISION.to_owned()),
        ("llb_files", root.display().to_string()),
    ] {
        build.arg("--define").arg(format!("{name} {value}"));
    }
    shell::run(build.arg("deploy/rpm/llb.spec"))
}

/// All files below a folder, by their paths from there, in order.
fn below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut find = shell::command("find");
    let found = shell::output(find.current_dir(root).args([".", "-type", "f", "-printf", "%P\\n"]))?;
    let mut found: Vec<PathBuf> = found.lines().map(PathBuf::from).collect();
    found.sort();
    Ok(found)
}
