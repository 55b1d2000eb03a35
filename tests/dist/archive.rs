// SPDX-License-Identifier: Apache-2.0
//! The archive for all other systems, and the sums.

use std::fs;
use std::process::Command;

use crate::shipped::{assert_is_shipped_program, file_of_target, files, folder, said, tool, unpacked};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_unpacked_archive_runs() {
    let archive = file_of_target(".tar.gz");
    let place = unpacked(&archive);
    assert_is_shipped_program(&place.path().join("llb-agent"));
    let files = files(place.path());
    for wanted in [
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "third-party-licenses.txt",
        "llb.service",
        "llb.toml",
        "man/llb-agent.8.gz",
        "completions/llb-agent.bash",
    ] {
        assert!(files.contains_key(wanted), "no {wanted} in {:?}", files.keys());
    }
    // Whoever unpacks it as root must not get files that belong to a user of the machine that built it.
    let list = said(tool("tar", &["--list", "--verbose", "--numeric-owner", "--file"]).arg(&archive));
    for line in list.lines() {
        assert!(line.contains(" 0/0 "), "{line}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_sums_are_right_and_complete() {
    let sums = fs::read_to_string(folder().join("SHA256SUMS")).unwrap();
    said(Command::new("sha256sum").current_dir(folder()).args(["--check", "--strict", "SHA256SUMS"]));
    let mut missing = files(&folder());
    missing.remove("SHA256SUMS");
    for line in sums.lines() {
        let (_, name) = line.split_once("  ").unwrap();
        assert!(missing.remove(name).is_some(), "{line}");
    }
    assert!(missing.is_empty(), "without a sum: {:?}", missing.keys());
}
