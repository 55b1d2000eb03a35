// SPDX-License-Identifier: Apache-2.0
//! The static binary, with the eBPF objects inside. Its debug information is moved into a file of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use super::architecture::Architecture;
use super::folders;
use super::revision::Revision;
use crate::bpf_linker::Compiler;
use crate::{remap, shell};

/// The program.
pub(super) const PROGRAM: &str = "llb-agent";

/// How the compiler builds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// As it is shipped
    #[default]
    Dist,
    /// Without optimization and packed less, in a part of the time: for tests of everything else
    DistQuick,
}

impl Profile {
    /// Cargo's name of it, and the folder in which cargo puts what it builds.
    fn of_cargo(self) -> (&'static str, &'static str) {
        match self {
            Self::Dist => ("shipped", "shipped"),
            Self::DistQuick => ("dev", "debug"),
        }
    }
}

/// More than this is a mistake: something large was built in.
const MOST_BYTES: u64 = 22 << 20;

/// A built program.
pub(super) struct Binary {
    /// Without debug information.
    pub(super) program: PathBuf,
    /// The debug information of the program.
    pub(super) debug: PathBuf,
}

/// Folders in which a build reads and writes.
pub(super) struct Folders {
    pub(super) workspace: PathBuf,
    pub(super) target: PathBuf,
    pub(super) cargo_home: PathBuf,
}

impl Folders {
    /// Those of all builds, except for the one that is compared.
    ///
    /// # Errors
    /// The environment names no folder for cargo.
    pub(super) fn own() -> Result<Self> {
        let workspace = shell::workspace().to_owned();
        // What runs while something is compiled is there already, from builds for this machine.
        let target = workspace.join("target");
        Ok(Self { workspace, target, cargo_home: remap::cargo_home()? })
    }
}

/// Builds the program for an architecture.
///
/// # Errors
/// It can't be built, or is too large.
pub(super) fn build(architecture: Architecture, profile: Profile, revision: &Revision) -> Result<Binary> {
    build_in(&Folders::own()?, architecture, profile, revision)
}

/// The same in other folders.
///
/// # Errors
/// As [`build`].
pub(super) fn build_in(
    folders: &Folders,
    architecture: Architecture,
    profile: Profile,
    revision: &Revision,
) -> Result<Binary> {
    let compiler = Compiler::ask()?;
    provide_target(&compiler, architecture)?;
    let triple = architecture.triple();
    let flags = [
        "-Ctarget-feature=+crt-static",
        // The linker that comes with the compiler, so that it is pinned, and knows all architectures.
        "-Clinker=rust-lld",
        // By this, debuggers find the debug information of a program.
        "-Clink-arg=--build-id=sha1",
        // The program relocates itself when it starts. This option stores the relocations in a hundredth of the bytes.
        "-Clink-arg=--pack-dyn-relocs=relr",
    ]
    .map(str::to_owned);
    let flags: Vec<String> = flags.into_iter().chain(remap::flags(&compiler, &folders.cargo_home)).collect();
    let (profile_name, built) = profile.of_cargo();
    let mut cargo = shell::foreign_build("cargo");
    cargo
        .current_dir(&folders.workspace)
        .env("CARGO_HOME", &folders.cargo_home)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env(for_target("CC", triple), architecture.c_compiler())
        .env(for_target("CFLAGS", triple), remap::c_flags(&folders.cargo_home))
        .env("LLB_REVISION", &revision.name)
        // Two incremental builds do not have the same bytes.
        .env("CARGO_INCREMENTAL", "0")
        .args(["build", "--locked", "--profile", profile_name, "--target", triple, "--package", PROGRAM])
        .arg("--target-dir")
        .arg(&folders.target);
    shell::run(&mut cargo)?;
    let binary = split(&compiler, &folders.target.join(triple).join(built))?;
    let program = &binary.program;
    let bytes = program.metadata().with_context(|| format!("cannot read {}", program.display()))?.len();
    println!("{}: {bytes} bytes", program.display());
    ensure!(
        profile != Profile::Dist || bytes <= MOST_BYTES,
        "{} has {bytes} bytes; the limit is {MOST_BYTES}",
        program.display()
    );
    Ok(binary)
}

/// The name of a variable that is for one target only.
fn for_target(variable: &str, triple: &str) -> String {
    format!("{variable}_{}", triple.replace('-', "_"))
}

/// The standard library for the target; rustup fetches it once.
fn provide_target(compiler: &Compiler, architecture: Architecture) -> Result<()> {
    let triple = architecture.triple();
    if compiler.sysroot.join("lib/rustlib").join(triple).join("lib").is_dir() {
        return Ok(());
    }
    shell::run(shell::foreign_build("rustup").args(["target", "add", triple])).with_context(|| {
        format!("missing: the standard library for {triple}; rustup gets it (https://rustup.rs)")
    })
}

/// Moves the debug information of the program in this folder out of it.
fn split(compiler: &Compiler, folder: &Path) -> Result<Binary> {
    let built = folder.join(PROGRAM);
    let stripped = folder.join("stripped");
    folders::replace(&stripped)?;
    let (program, debug) = (stripped.join(PROGRAM), stripped.join(format!("{PROGRAM}.debug")));
    shell::run(compiler.objcopy().arg("--only-keep-debug").arg(&built).arg(&debug))?;
    shell::run(
        compiler
            .objcopy()
            .arg("--strip-all")
            .arg(format!("--add-gnu-debuglink={}", debug.display()))
            .arg(&built)
            .arg(&program),
    )?;
    Ok(Binary { program, debug })
}
