// SPDX-License-Identifier: Apache-2.0
//! At which link device a bpf link is. The kernel tells the owner of its descriptor in
//! `/proc/self/fdinfo`. Asking for the programs at a link device instead needs CAP_SYS_ADMIN, since
//! they may be of other owners.

use std::fs;
use std::io;

/// The index of the link device where `program` is attached by a bpf link of this `kind` (`tcx`, `xdp`) that this process
/// has open. `None`: there is no such link, or its link device was removed.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn device_of(kind: &str, program: u32) -> io::Result<Option<u32>> {
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // Another thread may have closed the descriptor.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let Some(index) = device_in(&text, kind, program) {
            return Ok((index != 0).then_some(index));
        }
    }
    Ok(None)
}

/// From the lines `name:\tvalue` of one descriptor.
fn device_in(text: &str, kind: &str, program: u32) -> Option<u32> {
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
    let is_it = field("link_type") == Some(kind) && field("prog_id")?.parse() == Ok(program);
    if is_it { field("ifindex")?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_of_a_link_is_in_its_fdinfo() {
        let text = "pos:\t0\nflags:\t02000002\nlink_type:\ttcx\nlink_id:\t3\nprog_tag:\tbfcf4bd5f9e2dc25\n\
            prog_id:\t17\nifindex:\t2\nattach_type:\t46 (tcx_ingress)\n";
        assert_eq!(device_in(text, "tcx", 17), Some(2));
        assert_eq!(device_in(text, "tcx", 1), None);
        assert_eq!(device_in(text, "xdp", 17), None);
        assert_eq!(device_in("pos:\t0\n", "tcx", 17), None);
    }
}
