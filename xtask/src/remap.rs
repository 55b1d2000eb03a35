// SPDX-License-Identifier: Apache-2.0
//! The flags by which compilers replace the folders of this machine with fixed names in what they write. Without them, the
//! same sources would give other bytes in another folder. Builds nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::bpf_linker::Compiler;
use crate::shell;

/// The name of the workspace in messages of panics and in debug information.
const WORKSPACE: &str = "/llb";

/// The name of cargo's folder, which has the sources of crates.
const CARGO: &str = "/cargo";

/// For rustc. Of several folders that match, the last one counts, so a folder inside of another comes behind it.
pub(crate) fn flags(compiler: &Compiler, cargo_home: &Path) -> Vec<String> {
    let mut folders = folders(cargo_home);
    // rustup puts the sources of the standard library there. A rustc without them uses the other name itself.
    let library = compiler.sysroot.join("lib/rustlib/src/rust");
    folders.push((library, format!("/rustc/{}", compiler.commit)));
    folders.into_iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect()
}

/// For a C compiler.
pub(crate) fn c_flags(cargo_home: &Path) -> String {
    let folders = folders(cargo_home).into_iter();
    folders
        .map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The other folder of `cargo xtask dist --check-reproducible`. Each build has it among its flags. So both builds have the
/// same flags, and can share the dependencies that they compile.
pub(crate) fn second_workspace() -> PathBuf {
    shell::workspace().join("target/dist-build/second")
}

/// Where cargo keeps the sources of crates.
///
/// # Errors
/// Neither `CARGO_HOME` nor `HOME` is set.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(folder) = shell::variable("CARGO_HOME").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let home = shell::variable("HOME").context("HOME is not set, so cargo's folder is not known")?;
    Ok(Path::new(&home).join(".cargo"))
}

fn folders(cargo_home: &Path) -> Vec<(PathBuf, String)> {
    let workspaces = [shell::workspace().to_owned(), second_workspace()];
    let mut folders: Vec<_> = workspaces.map(|folder| (folder, WORKSPACE.to_owned())).into();
    folders.push((cargo_home.to_owned(), CARGO.to_owned()));
    folders
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::c_flags;

    #[test]
    fn an_inner_folder_comes_behind_the_outer_one() {
        let flags = c_flags(Path::new("/home/me/.cargo"));
        let at = |part: &str| flags.find(part).unwrap_or_else(|| panic!("no {part} in {flags}"));
        assert!(at("=/llb") < at("/target/dist-build/second=/llb"), "{flags}");
        assert!(at("second=/llb") < at("/home/me/.cargo=/cargo"), "{flags}");
    }
}
