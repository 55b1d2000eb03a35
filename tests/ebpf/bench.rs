// SPDX-License-Identifier: Apache-2.0
//! The bench of the packet programs still measures all of them. What it prints is no test's business.

use std::process::Command;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_bench_measures_each_program_for_each_family() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("packet.json");
    let output = Command::new(env!("CARGO_BIN_EXE_llb-bench-packet"))
        .args(["--rounds", "1", "--packets", "100", "--flows", "1", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Two hooks, two families, and four programs: one that only sends back, dsr, nat forward and nat reply.
    let rows = text.lines().filter(|line| line.starts_with("| Xdp") || line.starts_with("| Tc")).count();
    assert_eq!(rows, 2 * 2 * 4, "{text}");
    assert!(json.is_file());
}
