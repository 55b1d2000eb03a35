// SPDX-License-Identifier: Apache-2.0
//! The kernel's settings that llb depends on; it reads and never changes them.

use std::path::Path;

/// Whether the kernel makes a secondary IPv4 address primary when the primary
/// one is removed. Set for all links or for this one
/// (Documentation/networking/ip-sysctl).
pub(super) fn promotes_secondaries(link: &str) -> bool {
    ["all", link].iter().any(|name| {
        let setting = Path::new("/proc/sys/net/ipv4/conf").join(name).join("promote_secondaries");
        std::fs::read_to_string(setting).is_ok_and(|value| value.trim() != "0")
    })
}
