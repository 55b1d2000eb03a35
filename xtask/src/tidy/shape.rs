// SPDX-License-Identifier: Apache-2.0
//! The shape of one Rust file: length, opening, name.
//!
//! Why: a reader takes in one file at a time, knows from its first line whether it is the right one, and finds it by
//! its name.

use super::source::{Complaint, Source};

/// A file that does not fit into a head is two files. Aim for 300.
const MAX_LINES: usize = 400;

/// Names of drawers. Whatever is put there has a subject, and belongs into the file of that subject.
const DRAWERS: [&str; 4] = ["utils.rs", "helpers.rs", "types.rs", "common.rs"];

pub(super) fn check(source: &Source) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        complaints.push(source.complaint(MAX_LINES, format!("{lines} lines; the limit is {MAX_LINES}")));
    }
    let opening = source.text.lines().find(|line| !line.starts_with("// SPDX-")).unwrap_or_default();
    if !opening.starts_with("//!") && !opening.starts_with("#![") {
        complaints.push(
            source.complaint(1, "a file opens with `//!`, which says what the file is and what it is not"),
        );
    }
    let name = source.path.rsplit('/').next().unwrap_or_default();
    if DRAWERS.contains(&name) {
        complaints.push(source.complaint(1, "a drawer; name the file by its subject"));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::super::source::source;
    use super::{MAX_LINES, check};

    #[test]
    fn length_opening_and_drawers() {
        let complaints = |path: &str, text: &str| check(&source(path, text)).len();
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "//! Plans.\n"), 0);
        assert_eq!(complaints("llb-ebpf/src/packet/main.rs", "#![no_std]\n"), 0);
        assert_eq!(complaints("xtask/src/a.rs", &"//! Long.\n".repeat(MAX_LINES + 1)), 1);
        assert_eq!(complaints("xtask/src/a.rs", "fn main() {}\n"), 1);
        assert_eq!(complaints("llb-agent/src/plan/utils.rs", "//! All sorts.\n"), 1);
    }
}
