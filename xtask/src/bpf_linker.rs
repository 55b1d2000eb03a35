// SPDX-License-Identifier: Apache-2.0
//! Finds or builds the linker for eBPF objects. Links nothing itself.
//!
//! bpf-linker must have the same LLVM as rustc. So it is built against rustc's own libLLVM; the two always match, and
//! neither clang nor a system LLVM is needed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The version that was tried with aya-ebpf 0.3.
const VERSION: &str = "0.13.0";

/// What rustc says about itself.
pub(crate) struct Compiler {
    /// The whole output of `rustc -vV`.
    pub(crate) description: String,
    /// Like `1.98.1`.
    release: String,
    /// Like `22`.
    llvm_major: String,
    /// The commit of its sources, by which it names its own files.
    pub(crate) commit: String,
    /// Like `x86_64-unknown-linux-gnu`.
    pub(crate) host: String,
    /// Where it is installed.
    pub(crate) sysroot: PathBuf,
}

impl Compiler {
    /// Asks the rustc that the toolchain file selects.
    ///
    /// # Errors
    /// There is no rustc, or it does not name its LLVM.
    pub(crate) fn ask() -> Result<Self> {
        let description = shell::output(shell::foreign_build("rustc").arg("-vV"))
            .context("rustc is missing; install Rust: https://rustup.rs")?;
        let field = |name: &str| description.lines().find_map(|line| line.strip_prefix(name));
        let release = field("release: ").context("`rustc -vV` names no release")?.to_owned();
        let llvm =
            field("LLVM version: ").context("`rustc -vV` names no LLVM: this rustc can't build eBPF")?;
        let commit = field("commit-hash: ").unwrap_or("unknown").to_owned();
        let host = field("host: ").context("`rustc -vV` names no host")?.to_owned();
        let llvm_major = llvm.split('.').next().unwrap_or(llvm).to_owned();
        let sysroot =
            shell::output(shell::foreign_build("rustc").args(["--print", "sysroot"]))?.trim().into();
        Ok(Self { description, release, llvm_major, commit, host, sysroot })
    }

    /// The tool that copies ELF files and leaves sections out. It comes with the compiler, knows all architectures, and
    /// needs the compiler's LLVM.
    pub(crate) fn objcopy(&self) -> Command {
        let program = self.sysroot.join("lib/rustlib").join(&self.host).join("bin/rust-objcopy");
        let mut command = shell::command(&program);
        command.env("LD_LIBRARY_PATH", self.sysroot.join("lib"));
        command
    }

    /// The target has no ready-made `core`, so the sources of `core` must be installed.
    ///
    /// # Errors
    /// They are not installed.
    pub(crate) fn require_sources(&self) -> Result<()> {
        if self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            return Ok(());
        }
        bail!(
            "missing: rust-src, the sources of `core` for rustc {}; get it with \
             `rustup component add rust-src`",
            self.release
        )
    }
}

/// The path of a bpf-linker that has the LLVM of `compiler`.
///
/// # Errors
/// There is none, and it can't be built. The error names what is missing.
pub(crate) fn provide(compiler: &Compiler) -> Result<PathBuf> {
    let prefix = shell::workspace().join("target/bpf-linker").join(&compiler.release);
    let own = prefix.join("bin/bpf-linker");
    // An existing one may fail to run: it remembers the path of rustc's libLLVM, which may have moved.
    if own.is_file() && shell::output(shell::command(&own).arg("--version")).is_ok() {
        return Ok(own);
    }
    if let Some(installed) = shell::find("bpf-linker").filter(|path| has_llvm(path, &compiler.llvm_major)) {
        println!("using {}, which has LLVM {}", installed.display(), compiler.llvm_major);
        return Ok(installed);
    }
    link_llvm(compiler, &prefix.join("lib"))?;
    println!("bpf-linker {VERSION} for LLVM {} is built once, about a minute", compiler.llvm_major);
    shell::run(
        shell::foreign_build("cargo")
            .env("LLVM_PREFIX", &prefix)
            .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"])
            .args(["--force", "--features", &format!("llvm-{}", compiler.llvm_major), "--root"])
            .arg(&prefix),
    )
    .with_context(|| {
        format!(
            "missing: bpf-linker for LLVM {major}; without a network put one on PATH that was made by \
             `cargo install bpf-linker --version {VERSION} --no-default-features --features llvm-{major}`",
            major = compiler.llvm_major
        )
    })?;
    Ok(own)
}

/// Whether an installed bpf-linker loads that LLVM. If LLVM is linked into it, its version can't be seen from outside,
/// so it is not used.
fn has_llvm(linker: &Path, major: &str) -> bool {
    let libraries = shell::output(shell::command("ldd").arg(linker)).unwrap_or_default();
    ["libLLVM.so.", "libLLVM-"].iter().any(|stem| {
        libraries.split(stem).skip(1).any(|rest| {
            let version: String = rest.chars().take_while(char::is_ascii_digit).collect();
            version == major
        })
    })
}

/// A folder in which the build of bpf-linker finds rustc's libLLVM under the name that it expects.
fn link_llvm(compiler: &Compiler, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let libraries = compiler.sysroot.join("lib");
    let mut found = false;
    for entry in fs::read_dir(&libraries).with_context(|| format!("cannot read {}", libraries.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("libLLVM.so.") {
            replace_link(&entry.path(), &folder.join(&name))?;
            replace_link(&entry.path(), &folder.join("libLLVM.so"))?;
            found = true;
        }
    }
    if !found {
        bail!(
            "missing: libLLVM.so of rustc {} in {}; a rustc from rustup has it (https://rustup.rs), or put a \
             bpf-linker for LLVM {} on PATH",
            compiler.release,
            libraries.display(),
            compiler.llvm_major
        );
    }
    Ok(())
}

fn replace_link(target: &Path, link: &Path) -> Result<()> {
    if link.symlink_metadata().is_ok() {
        fs::remove_file(link)?;
    }
    symlink(target, link).with_context(|| format!("cannot make {}", link.display()))
}
