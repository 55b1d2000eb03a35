// SPDX-License-Identifier: Apache-2.0
//! `unsafe` stands in a few known files only.
//!
//! Why: the compiler denies it, but any file can allow it for itself. A new place needs a reason here.

use super::source::{Complaint, Source, unused};

/// The files that may contain `unsafe`, each with what no safe crate offers.
const HOMES: [(&str, &str); 10] = [
    ("llb-ebpf/", "eBPF programs read raw memory"),
    ("llb-agent/src/packet_socket.rs", "the address of a packet socket"),
    ("llb-agent/src/dataplane/packet/flow_table.rs", "a mapped table of flows"),
    ("llb-agent/src/dataplane/packet/table.rs", "a batch of entries for bpf(2)"),
    ("llb-agent/src/dataplane/packet/xdp_removal.rs", "a program without an object for bpf(2)"),
    ("llb-agent/src/dataplane/proxy/latency.rs", "TCP_INFO"),
    ("llb-agent/src/dataplane/proxy/udp_offload.rs", "UDP_GRO"),
    ("llb-agent/src/dataplane/proxy/sockmap/quiesce.rs", "SO_RCVLOWAT"),
    ("tests/addresses/segment.rs", "unshare(2) for one thread"),
    ("tests/src/lab/tunnel.rs", "TUNSETIFF"),
];

/// This file names what it looks for.
const OWN: &str = "xtask/src/tidy/unsafe_code.rs";

pub(super) fn check(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut used = [false; HOMES.len()];
    for source in sources.iter().filter(|source| source.path.ends_with(".rs") && source.path != OWN) {
        let home = HOMES.iter().position(|(home, _)| source.path.starts_with(home));
        for (number, _) in source.code().filter(|(_, line)| is_unsafe(line)) {
            match home {
                Some(home) => used[home] = true,
                None => complaints.push(
                    source
                        .complaint(number, "`unsafe` is not allowed here; see xtask/src/tidy/unsafe_code.rs"),
                ),
            }
        }
    }
    let dead = HOMES.iter().zip(used).filter(|(_, used)| !used);
    complaints.extend(dead.map(|((home, _), _)| unused("unsafe_code", home)));
    complaints
}

/// The keyword, with what may follow it: `--unsafe-no-fsync` is none, nor is `unsafe_code`.
fn is_unsafe(line: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe("].iter().any(|start| {
        line.match_indices(start).any(|(at, _)| !line[..at].chars().next_back().is_some_and(is_part))
    })
}

#[cfg(test)]
mod tests {
    use super::super::source::source;
    use super::check;

    #[test]
    fn unsafe_stays_at_home() {
        let complaints = |path: &str, line: &str| {
            let found = check(&[source(path, line)]);
            found.iter().filter(|complaint| complaint.path == path).count()
        };
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "unsafe { x() }"), 1);
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "unsafe impl Pod for X {}"), 1);
        assert_eq!(complaints("llb-ebpf/src/packet/main.rs", "unsafe { x() }"), 0);
        for fine in ["// unsafe { in a comment }", "#[expect(unsafe_code)]", "\"--unsafe-no-fsync\""] {
            assert_eq!(complaints("llb-agent/src/plan/mod.rs", fine), 0);
        }
    }

    #[test]
    fn a_home_without_unsafe_is_named() {
        let found = check(&[source("llb-ebpf/src/a.rs", "unsafe { x() }")]);
        assert_eq!(found.len(), super::HOMES.len() - 1);
    }
}
