// SPDX-License-Identifier: Apache-2.0
//! Builds the same sources twice, in two folders, and compares the bytes.
//!
//! The quick way compiles llb's own crates and the eBPF programs again, and shares the compiled dependencies: they do not
//! know the folder of the workspace. The whole way shares nothing: it also has folders of its own for targets and for the
//! sources of crates.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::architecture::Architecture;
use super::binary::{self, Binary, Folders, Profile};
use super::folders;
use super::revision::Revision;
use super::tools;
use crate::{build_ebpf, remap, shell};

/// The objects that are in the binary.
const OBJECTS: [&str; 2] = ["target/ebpf/packet.o", "target/ebpf/sockmap.o"];

/// Builds in two folders.
///
/// # Errors
/// Something can't be built, or a file differs.
pub(crate) fn check(architectures: &[Architecture], profile: Profile, whole: bool) -> Result<()> {
    tools::install(architectures)?;
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    let revision = Revision::find()?;
    let own = Folders::own()?;
    let second = second(whole)?;
    copy_sources(&second.workspace)?;
    let ebpf_target = if whole {
        second.workspace.join("target/ebpf-build")
    } else {
        shell::workspace().join("target/ebpf-build")
    };
    build_ebpf::build_copy(&second.workspace, &second.cargo_home, &ebpf_target)?;
    let mut different = Vec::new();
    for object in OBJECTS {
        compare(&own.workspace.join(object), &second.workspace.join(object), &mut different)?;
    }
    for architecture in architectures {
        let kept = folders::build().join("first");
        folders::replace(&kept)?;
        let first = keep(&binary::build_in(&own, *architecture, profile, &revision)?, &kept)?;
        let again = binary::build_in(&second, *architecture, profile, &revision)?;
        compare(&first.program, &again.program, &mut different)?;
        compare(&first.debug, &again.debug, &mut different)?;
    }
    if !different.is_empty() {
        bail!("two builds in different folders differ:\n{}", different.join("\n"));
    }
    println!("two builds in different folders have the same bytes");
    Ok(())
}

/// The folders of the second build.
fn second(whole: bool) -> Result<Folders> {
    let workspace = remap::second_workspace();
    let own = Folders::own()?;
    if !whole {
        return Ok(Folders { workspace, ..own });
    }
    let target = workspace.join("target/dist-build/cargo");
    // The sources of crates are unpacked again, from the archives that were fetched already.
    let cargo_home = folders::build().join("second-cargo");
    folders::replace(&cargo_home.join("registry"))?;
    for shared in ["index", "cache"] {
        symlink(own.cargo_home.join("registry").join(shared), cargo_home.join("registry").join(shared))
            .with_context(|| format!("cannot make {}", cargo_home.display()))?;
    }
    Ok(Folders { workspace, target, cargo_home })
}

/// Copies all sources into a folder, without what was built.
fn copy_sources(to: &Path) -> Result<()> {
    folders::replace(to)?;
    let archive = folders::build().join("sources.tar");
    let tar = |action: &str| {
        let mut tar = shell::command("tar");
        tar.arg(action).arg("--file").arg(&archive);
        tar
    };
    shell::run(tar("--create").args(["--exclude=./target", "--exclude=./.git", "."]))?;
    shell::run(tar("--extract").arg("--directory").arg(to))
}

/// The second build may write to the same place.
fn keep(built: &Binary, folder: &Path) -> Result<Binary> {
    let (program, debug) = (folder.join("program"), folder.join("debug"));
    folders::copy(&built.program, &program, 0o755)?;
    folders::copy(&built.debug, &debug, 0o644)?;
    Ok(Binary { program, debug })
}

fn compare(one: &Path, other: &Path, different: &mut Vec<String>) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (bytes, others) = (read(one)?, read(other)?);
    if bytes == others {
        println!("the same {} bytes: {} and {}", bytes.len(), one.display(), other.display());
        return Ok(());
    }
    let at = bytes.iter().zip(&others).position(|(byte, other)| byte != other);
    let at = at.unwrap_or(bytes.len().min(others.len()));
    different.push(format!("{} and {} from byte {at} on", one.display(), other.display()));
    Ok(())
}
