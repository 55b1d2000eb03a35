// SPDX-License-Identifier: Apache-2.0
//! The names of the links, for messages.

/// The names of all links in this network namespace; empty if they cannot be read.
pub fn link_names() -> Vec<String> {
    // /sys/class/net can show another namespace, depending on the mount. This file cannot.
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}
