// SPDX-License-Identifier: Apache-2.0
//! The package for Debian and its relatives, as dpkg sees it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::shipped::{ARCHITECTURE, VERSION, assert_is_shipped_program, file, files, said, tool};

/// The architecture by Debian's name.
fn architecture() -> &'static str {
    match ARCHITECTURE {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("nothing is shipped for {other}"),
    }
}

fn package() -> std::path::PathBuf {
    file(&format!("llb_{VERSION}-1_{}.deb", architecture()))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn dpkg_reads_the_fields() {
    let field =
        |name: &str| said(tool("dpkg-deb", &["--field"]).arg(package()).arg(name)).trim_end().to_owned();
    assert_eq!(field("Package"), "llb");
    assert_eq!(field("Version"), format!("{VERSION}-1"));
    assert_eq!(field("Architecture"), architecture());
    assert_eq!(field("Section"), "net");
    assert_eq!(field("Depends"), "passwd", "a static binary needs nothing, its user does");
    assert!(field("Installed-Size").parse::<u64>().unwrap() > 1000);
    let description = field("Description");
    assert!(description.contains("load balancer") && description.lines().count() > 1, "{description}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_package_has_what_an_administrator_looks_for() {
    let place = tempfile::tempdir().unwrap();
    said(tool("dpkg-deb", &["--extract"]).arg(package()).arg(place.path()));
    let files = files(place.path());
    for wanted in [
        "etc/llb/llb.toml",
        "usr/bin/llb-agent",
        "usr/lib/systemd/system/llb.service",
        "usr/share/bash-completion/completions/llb-agent",
        "usr/share/doc/llb/CHANGELOG.md",
        "usr/share/doc/llb/copyright",
        "usr/share/doc/llb/operations.md",
        "usr/share/doc/llb/rbac.yaml",
        "usr/share/doc/llb/third-party-licenses.txt",
        "usr/share/fish/vendor_completions.d/llb-agent.fish",
        "usr/share/man/man8/llb-agent.8.gz",
        "usr/share/man/man8/llb-agent-explain.8.gz",
        "usr/share/zsh/vendor-completions/_llb-agent",
    ] {
        assert!(files.contains_key(wanted), "no {wanted} in {:#?}", files.keys());
    }
    assert_is_shipped_program(&files["usr/bin/llb-agent"]);
    for (name, path) in &files {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let wanted = if name.starts_with("usr/bin/") { 0o755 } else { 0o644 };
        assert_eq!(mode, wanted, "{name}");
    }
    let sums = said(tool("dpkg-deb", &["--info"]).arg(package()).arg("md5sums"));
    let mut unnamed = files.clone();
    for line in sums.lines() {
        assert!(line.split_once("  ").and_then(|(_, name)| unnamed.remove(name)).is_some(), "{line}");
    }
    assert!(unnamed.is_empty(), "without a sum: {:?}", unnamed.keys());
    let list = said(tool("dpkg-deb", &["--contents"]).arg(package()));
    assert!(list.lines().all(|line| line.contains(" root/root ") || line.contains(" 0/0 ")), "{list}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_edited_configuration_survives_an_upgrade() {
    // dpkg keeps the file if it is in this list, and an administrator has changed it.
    let files = said(tool("dpkg-deb", &["--info"]).arg(package()).arg("conffiles"));
    assert_eq!(files.lines().collect::<Vec<_>>(), ["/etc/llb/llb.toml"]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn dpkg_runs_the_scripts() {
    for script in ["postinst", "prerm", "postrm"] {
        let text = said(tool("dpkg-deb", &["--info"]).arg(package()).arg(script));
        assert!(text.starts_with("#!/bin/sh\n") && text.contains("systemd"), "{script}: {text}");
    }
}
