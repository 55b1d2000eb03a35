// SPDX-License-Identifier: Apache-2.0
//! The programs' settings at start, and which source ports they may use.

use std::io;

use llb_common::settings::{FLOW_BUDGET, Settings};

use super::maps::Maps;
use super::setup::PacketSetup;
use crate::config::PortRange;

pub(super) fn settings(setup: &PacketSetup, maps: &Maps) -> io::Result<Settings> {
    let old = maps.settings.get(&0)?.unwrap_or_default();
    let ports = setup.config.snat_ports.unwrap_or_else(free_ports);
    Ok(Settings {
        snat: old.snat,
        snat_first_port: ports.first,
        snat_last_port: ports.last,
        flow_budget: FLOW_BUDGET,
        ..Settings::default()
    })
}

/// Ports that the kernel gives to no socket by itself: those below
/// `net.ipv4.ip_local_port_range`, or above it where that is more.
fn free_ports() -> PortRange {
    const LINUX: (u16, u16) = (32_768, 60_999);
    const UNPRIVILEGED: u16 = 1024;
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    let (first, last) = match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        _ => LINUX,
    };
    free_beside((first, last), UNPRIVILEGED)
}

fn free_beside((first, last): (u16, u16), lowest: u16) -> PortRange {
    let below = first.saturating_sub(lowest);
    let above = u16::MAX - last;
    if below == 0 && above == 0 {
        // All are the host's. Programs still take none that a socket has now.
        return PortRange { first: lowest, last: u16::MAX };
    }
    if below >= above {
        PortRange { first: lowest, last: first - 1 }
    } else {
        PortRange { first: last + 1, last: u16::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports_are_those_that_the_host_leaves() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(free_beside((32_768, 60_999), 1024), range(1024, 32_767));
        assert_eq!(free_beside((1024, 40_000), 1024), range(40_001, 65_535));
        assert_eq!(free_beside((1024, 65_535), 1024), range(1024, 65_535));
    }
}
