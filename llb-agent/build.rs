// SPDX-License-Identifier: Apache-2.0
//! Finds the eBPF objects that `cargo xtask build-ebpf` has built; never
//! compiles them. Without them the agent has only the planes in user space, and
//! says so when another is asked for. Also collects what `--version` says.

use std::path::Path;
use std::{env, fs};

use sha2::{Digest as _, Sha256};

#[expect(clippy::disallowed_methods, reason = "cargo tells build scripts by variables")]
fn main() {
    let package = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let folder = Path::new(&package).join("../target/ebpf");
    // Cargo watches what is there: with the folder, an object that appears
    // later is noticed; a path that does not exist would mean a rebuild each
    // time. Where the folder can't be made, that is what it means.
    let _ = fs::create_dir_all(&folder);
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-changed=build.rs");

    for name in ["packet", "sockmap"] {
        println!("cargo::rustc-check-cfg=cfg({name}_object)");
        let object = folder.join(name).with_extension("o");
        let variable = format!("LLB_{}", name.to_uppercase());
        let mut hash = "not built in".to_owned();
        if object.is_file() {
            println!("cargo::rustc-cfg={name}_object");
            println!("cargo::rustc-env={variable}_OBJECT={}", object.display());
            hash = sha256(&object);
        }
        println!("cargo::rustc-env={variable}_HASH={hash}");
    }

    // Only a build for others names the revision. If each build asked git, each commit would be a reason to compile
    // the agent anew.
    println!("cargo::rerun-if-env-changed=LLB_REVISION");
    let revision =
        env::var("LLB_REVISION").unwrap_or_else(|_| "not named, a build for development".to_owned());
    println!("cargo::rustc-env=LLB_REVISION={revision}");
    println!("cargo::rustc-env=LLB_TARGET={}", env::var("TARGET").expect("cargo sets TARGET"));
}

/// As `sha256sum` prints it.
fn sha256(file: &Path) -> String {
    let content = fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
    let digest = Sha256::digest(content);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
