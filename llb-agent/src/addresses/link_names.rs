// SPDX-License-Identifier: Apache-2.0
//! Which links there are, for messages.

/// The names of all links of this network namespace, for messages.
pub fn link_names() -> Vec<String> {
    // /sys/class/net may be mounted for another namespace; this file never is.
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}
