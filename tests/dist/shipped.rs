// SPDX-License-Identifier: Apache-2.0
//! Finds the shipped files, and runs tools on them. It asserts nothing about them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The version of everything.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The architecture of this machine, in the name of a file.
pub(crate) const ARCHITECTURE: &str = std::env::consts::ARCH;

/// The folder with what is shipped.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist")
}

/// One shipped file.
pub(crate) fn file(name: &str) -> PathBuf {
    let file = folder().join(name);
    assert!(file.is_file(), "no {}; run `cargo xtask test --only dist`", file.display());
    file
}

/// One of those that have the target in their name.
pub(crate) fn file_of_target(end: &str) -> PathBuf {
    file(&format!("llb-{VERSION}-{ARCHITECTURE}-unknown-linux-musl{end}"))
}

/// The content of an archive, without its outer folder.
pub(crate) fn unpacked(archive: &Path) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    said(
        tool("tar", &["--extract", "--strip-components=1", "--file"])
            .arg(archive)
            .arg("-C")
            .arg(place.path()),
    );
    place
}

/// What the tool prints. It must succeed.
pub(crate) fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (text, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}{complaints}", output.status);
    text.into_owned()
}

/// A tool with its arguments.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// All files below a folder, by their paths from there.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, path);
            }
        }
    }
    found
}

/// What a packaged `llb-agent` must say about itself.
pub(crate) fn assert_is_shipped_program(program: &Path) {
    let version = said(Command::new(program).arg("--version"));
    assert!(version.starts_with(&format!("llb-agent {VERSION}\n")), "{version}");
    let built = fs::read(program).unwrap();
    let shipped = fs::read(llb_tests::agent::binary().unwrap()).unwrap();
    assert!(built == shipped, "{} is not the shipped binary", program.display());
}
