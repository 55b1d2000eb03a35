// SPDX-License-Identifier: Apache-2.0
//! The package for Red Hat's and its relatives, as rpm sees it. That program is in Debian too.

use crate::shipped::{ARCHITECTURE, VERSION, assert_is_shipped_program, file, files, said, tool};

fn package() -> std::path::PathBuf {
    file(&format!("llb-{VERSION}-1.{ARCHITECTURE}.rpm"))
}

fn ask(question: &[&str]) -> String {
    said(tool("rpm", &["--query", "--package"]).args(question).arg(package()))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn rpm_reads_the_fields() {
    let format = "%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{OS} %{LICENSE}";
    assert_eq!(ask(&["--queryformat", format]), format!("llb {VERSION} 1 {ARCHITECTURE} linux Apache-2.0"));
    let said = said(tool("rpm", &["--checksig", "--nosignature"]).arg(package()));
    assert!(said.contains("digests OK"), "{said}");
    let libraries: Vec<String> =
        ask(&["--requires"]).lines().filter(|line| line.contains(".so")).map(str::to_owned).collect();
    assert!(libraries.is_empty(), "a static binary needs no library: {libraries:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_package_has_the_same_files() {
    let list = ask(&["--list"]);
    for wanted in [
        "/etc/llb/llb.toml",
        "/usr/bin/llb-agent",
        "/usr/lib/systemd/system/llb.service",
        "/usr/share/bash-completion/completions/llb-agent",
        "/usr/share/doc/llb/operations.md",
        "/usr/share/doc/llb/third-party-licenses.txt",
        "/usr/share/fish/vendor_completions.d/llb-agent.fish",
        "/usr/share/licenses/llb/LICENSE",
        "/usr/share/man/man8/llb-agent.8.gz",
        "/usr/share/zsh/site-functions/_llb-agent",
    ] {
        assert!(list.lines().any(|line| line == wanted), "no {wanted} in {list}");
    }
    assert_eq!(ask(&["--configfiles"]).trim(), "/etc/llb/llb.toml");
    // 16 is "noreplace": an edited file stays.
    let flags = ask(&["--queryformat", "[%{FILENAMES} %{FILEFLAGS}\n]"]);
    let flags = flags.lines().find_map(|line| line.strip_prefix("/etc/llb/llb.toml ")).unwrap();
    assert_eq!(flags.parse::<u32>().unwrap() & 16, 16, "{flags}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn rpm_runs_the_scripts() {
    let scripts = ask(&["--scripts"]);
    for wanted in ["useradd --system", "systemctl try-restart llb.service", "llb-agent detach"] {
        assert!(scripts.contains(wanted), "no {wanted} in {scripts}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_unpacked_package_runs() {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("llb.cpio");
    let cpio = std::fs::File::create(&archive).unwrap();
    let status = tool("rpm2cpio", &[]).arg(package()).stdout(cpio).status().unwrap();
    assert!(status.success());
    let unpacked = place.path().join("root");
    std::fs::create_dir(&unpacked).unwrap();
    let input = std::fs::File::open(&archive).unwrap();
    said(tool("cpio", &["--extract", "--make-directories", "--quiet"]).current_dir(&unpacked).stdin(input));
    assert_is_shipped_program(&files(&unpacked)["usr/bin/llb-agent"]);
}
