// SPDX-License-Identifier: Apache-2.0
//! Finds the eBPF objects that `cargo xtask build-ebpf` has built; never
//! compiles them. Without them the agent has only the planes in user space, and
//! says so when another is asked for.

use std::path::Path;
use std::{env, fs};

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
        if object.is_file() {
            println!("cargo::rustc-cfg={name}_object");
            println!("cargo::rustc-env=LLB_{}_OBJECT={}", name.to_uppercase(), object.display());
        }
    }
}
