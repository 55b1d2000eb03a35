// SPDX-License-Identifier: Apache-2.0
//! Builds llb-ebpf into object files with cargo, for a target for which rustup has no `core`. The linker is provided by
//! `bpf_linker.rs`.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::bpf_linker::{self, Compiler};
use crate::ebpf_budget::Budget;
use crate::{object_report, remap, shell, stack_depth, verifier};

/// Little-endian eBPF: llb runs on little-endian hosts only.
const TARGET: &str = "bpfel-unknown-none";

/// The objects, named like their binaries in llb-ebpf.
const OBJECTS: [&str; 2] = ["packet", "sockmap"];

/// Everything besides the compiler that decides what the objects contain.
const INPUTS: [&str; 7] = [
    "llb-ebpf",
    "llb-common",
    "Cargo.toml",
    "Cargo.lock",
    "xtask/src/build_ebpf.rs",
    "xtask/src/bpf_linker.rs",
    "xtask/src/remap.rs",
];

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Add a log line per packet; needs an agent built with the same feature
    #[arg(long)]
    log: bool,
}

/// Puts the objects into `target/ebpf/` and prints what they contain. Nothing else is in that folder, because the
/// agent's build script watches it: the object that only the bench needs is `target/ebpf-bench/bench.o`.
///
/// # Errors
/// Something is missing (the error names it and the command that gets it), the sources do not compile, a panic is
/// reachable, or a program exceeds its budget.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = shell::workspace().join("target/ebpf");
    let objects = OBJECTS.map(|name| folder.join(name).with_extension("o"));
    let bench = shell::workspace().join("target/ebpf-bench/bench.o");
    let build_folder = shell::workspace().join("target/ebpf-build");
    let stamp = build_folder.join("objects.stamp");
    let compiler = Compiler::ask()?;
    let wanted = fingerprint(&compiler, arguments)?;
    let is_fresh = objects.iter().chain([&bench]).all(|object| object.is_file())
        && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted);
    if !is_fresh {
        compiler.require_sources()?;
        let linker = bpf_linker::provide(&compiler)?;
        let flags = flags(&compiler, &linker, &remap::cargo_home()?);
        let linked = build(shell::workspace(), &flags, &build_folder, arguments)?;
        for (name, object) in OBJECTS.iter().zip(&objects) {
            publish(&compiler, &linked.join(name), &build_folder.join(name).with_extension("part"), object)?;
        }
        publish(&compiler, &linked.join("bench"), &build_folder.join("bench.part"), &bench)?;
        fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    }
    for object in &objects {
        let report = object_report::read(object)?;
        print!("{report}");
        if !arguments.log {
            check_budget(object, &report)?;
        }
    }
    Ok(())
}

/// Only root may ask the kernel's verifier; other users check the number of instructions only.
fn check_budget(object: &Path, report: &object_report::Report) -> Result<()> {
    let budget = Budget::read()?;
    for (program, instructions) in report.programs() {
        budget.check_instructions(program, instructions)?;
    }
    for (program, bytes) in stack_depth::check(object)? {
        println!("  {program:<16} {bytes:>3} bytes of stack");
    }
    if rustix::process::geteuid().is_root() {
        for program in verifier::verify(object)? {
            println!("  {:<16} verified in {:>7} steps", program.name, program.steps);
            budget.check_steps(&program.name, program.steps.into())?;
        }
    }
    Ok(())
}

/// Builds the objects of another copy of the workspace into that copy's `target/ebpf/`, and checks no budget.
///
/// # Errors
/// They can't be built, or a panic is reachable.
pub(crate) fn build_copy(workspace: &Path, cargo_home: &Path, build_folder: &Path) -> Result<()> {
    let compiler = Compiler::ask()?;
    let flags = flags(&compiler, &bpf_linker::provide(&compiler)?, cargo_home);
    let linked = build(workspace, &flags, build_folder, &Arguments::default())?;
    for name in OBJECTS {
        let object = workspace.join("target/ebpf").join(name).with_extension("o");
        publish(&compiler, &linked.join(name), &build_folder.join(name).with_extension("part"), &object)?;
    }
    Ok(())
}

fn flags(compiler: &Compiler, linker: &Path, cargo_home: &Path) -> Vec<String> {
    // BTF is made from the debug information. CPU v3 has atomics and 32-bit jumps; every kernel since 5.12 knows it.
    let mut flags = vec![
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
        "-Ctarget-cpu=v3".to_owned(),
    ];
    flags.extend(remap::flags(compiler, cargo_home));
    flags
}

/// Returns the folder of the linked objects.
fn build(workspace: &Path, flags: &[String], folder: &Path, arguments: &Arguments) -> Result<PathBuf> {
    let mut cargo = shell::foreign_build("cargo");
    cargo
        .current_dir(workspace)
        // build-std is unstable. This allows it on the pinned stable compiler, so `core` and compiler have one version.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .args(["build", "--release", "-Zbuild-std=core", "--target", TARGET, "-p", "llb-ebpf"])
        // A folder of its own, because RUSTC_BOOTSTRAP would make host crates stale.
        .arg("--target-dir")
        .arg(folder);
    if arguments.log {
        cargo.args(["--features", "ebpf-log"]);
    }
    shell::run(&mut cargo)?;
    Ok(folder.join(TARGET).join("release"))
}

/// A hash of the compiler, the options and the content of all inputs.
fn fingerprint(compiler: &Compiler, arguments: &Arguments) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    (&compiler.description, arguments.log).hash(&mut hasher);
    for input in INPUTS {
        hash_tree(&shell::workspace().join(input), &mut hasher)?;
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn hash_tree(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    if path.is_dir() {
        let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        return entries.iter().try_for_each(|entry| hash_tree(&entry.path(), hasher));
    }
    path.hash(hasher);
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))?.hash(hasher);
    Ok(())
}

/// Puts an object in its place, without the debug information: BTF, which the kernel reads, is made already. It is renamed,
/// so that a build of the agent that runs meanwhile sees either the old file or the new one.
fn publish(compiler: &Compiler, from: &Path, part: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    shell::run(compiler.objcopy().arg("--strip-debug").arg(from).arg(part))?;
    // Reading checks the object, so a bad one never gets its final name.
    object_report::read(part)?;
    fs::rename(part, to).with_context(|| format!("cannot write {}", to.display()))
}
