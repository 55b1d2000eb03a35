// SPDX-License-Identifier: Apache-2.0
//! Rules on single files: length, opening, names, words, unsafe.

use super::{Complaint, Source, has_word};

/// A file that does not fit into a head is two files. Aim for 300.
const MAX_LINES: usize = 500;

/// Names of drawers: whatever is put there belongs into a room instead.
const DRAWERS: [&str; 4] = ["utils.rs", "helpers.rs", "types.rs", "common.rs"];

/// Where `unsafe` may stand: eBPF programs read raw memory, and flow tables are mapped; no crate has the
/// address of a packet socket, nor UDP_GRO, SO_RCVLOWAT and TCP_INFO; a namespace for one thread is made by `unshare`.
const UNSAFE_HOMES: [&str; 8] = [
    "llb-ebpf/",
    "llb-agent/src/addresses/announce/",
    "llb-agent/src/dataplane/packet/flow_table.rs",
    "llb-agent/src/dataplane/packet/table.rs",
    "llb-agent/src/dataplane/proxy/latency.rs",
    "llb-agent/src/dataplane/proxy/offload.rs",
    "llb-agent/src/dataplane/proxy/sockmap/quiet.rs",
    "tests/addresses/segment.rs",
];

/// A word that we do not use, our word for it, and where it may stand
/// nevertheless because Kubernetes calls its field so.
struct BannedWord {
    word: &'static str,
    ours: &'static str,
    except_in: &'static [&'static str],
}

/// One word per thing, so that a search for it finds all of it.
const BANNED: [BannedWord; 7] = [
    BannedWord { word: "upstream", ours: "backend, or backend side", except_in: &[] },
    BannedWord { word: "downstream", ours: "client, or client side", except_in: &[] },
    BannedWord { word: "real server", ours: "backend", except_in: &[] },
    BannedWord { word: "virtual server", ours: "frontend", except_in: &[] },
    BannedWord { word: "external ip", ours: "VIP", except_in: &[] },
    BannedWord {
        word: "external_ip",
        ours: "vip",
        except_in: &["llb-agent/src/source/", "llb-agent/src/status/", "tests/"],
    },
    BannedWord { word: "stickiness", ours: "affinity", except_in: &[] },
];

/// This folder names what it bans.
const OWN: &str = "xtask/src/tidy/";

pub(super) fn check(source: &Source) -> Vec<Complaint> {
    [shape, words, unsafe_code].iter().flat_map(|rule| rule(source)).collect()
}

/// The first line behind the licence says what the file is; a drawer can't.
fn shape(source: &Source) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        complaints.push(source.complaint(MAX_LINES, format!("{lines} lines, but {MAX_LINES} at most")));
    }
    let opening = source.text.lines().find(|line| !line.starts_with("// SPDX-")).unwrap_or_default();
    if !opening.starts_with("//!") && !opening.starts_with("#![") {
        complaints.push(source.complaint(1, "a file opens with `//!`: what is this file, and what not?"));
    }
    let name = source.path.rsplit('/').next().unwrap_or_default();
    if DRAWERS.contains(&name) {
        complaints.push(source.complaint(1, "a drawer; name the file by what is in it"));
    }
    complaints
}

fn words(source: &Source) -> Vec<Complaint> {
    if source.path.starts_with(OWN) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let line = line.to_lowercase();
        for BannedWord { word, ours, except_in } in &BANNED {
            if line.contains(word) && !except_in.iter().any(|place| source.path.starts_with(place)) {
                complaints.push(source.complaint(index + 1, format!("not \"{word}\"; we say {ours}")));
            }
        }
    }
    complaints
}

/// The compiler denies it already, but a file can allow it for itself.
fn unsafe_code(source: &Source) -> Vec<Complaint> {
    if source.path.starts_with(OWN) || UNSAFE_HOMES.iter().any(|home| source.path.starts_with(home)) {
        return Vec::new();
    }
    // With what may follow the keyword, so that `--unsafe-no-fsync` is none.
    let is_keyword = |line: &str| {
        has_word(line, "unsafe")
            && ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe("]
                .iter()
                .any(|start| line.contains(start))
    };
    let lines = source.code().filter(|(_, line)| is_keyword(line));
    lines.map(|(number, _)| source.complaint(number, "unsafe has no home here")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::{MAX_LINES, check};

    fn complaints(path: &str, text: &str) -> Vec<String> {
        check(&source(path, text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_tidy_file_is_silent() {
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "//! Plans.\n"), [""; 0]);
        assert_eq!(complaints("llb-ebpf/src/packet/main.rs", "#![no_std]\nunsafe fn f() {}\n"), [""; 0]);
    }

    #[test]
    fn length_opening_and_drawers() {
        let long = "//! Long.\n".repeat(MAX_LINES + 1);
        assert_eq!(complaints("xtask/src/a.rs", &long).len(), 1);
        assert_eq!(complaints("xtask/src/a.rs", "fn main() {}\n").len(), 1);
        assert_eq!(complaints("llb-agent/src/plan/utils.rs", "//! All sorts.\n").len(), 1);
    }

    #[test]
    fn words_and_where_kubernetes_needs_them() {
        assert_eq!(complaints("tests/lab/a.rs", "//! The Upstream answers.\n").len(), 1);
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "//! P\nlet external_ips = 1;\n").len(), 1);
        assert_eq!(complaints("llb-agent/src/source/convert.rs", "//! C\nspec.external_ips;\n").len(), 0);
    }

    #[test]
    fn unsafe_stays_at_home() {
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "//! P\nunsafe { x() }\n").len(), 1);
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "//! P\nunsafe impl Pod for X {}\n").len(), 1);
        for fine in ["// unsafe { in a comment }", "#[expect(unsafe_code)]", "\"--unsafe-no-fsync\""] {
            assert_eq!(complaints("llb-agent/src/plan/mod.rs", &format!("//! P\n{fine}\n")).len(), 0);
        }
    }
}
