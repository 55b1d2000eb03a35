// SPDX-License-Identifier: Apache-2.0
//! The settings that all programs share: source ports and source addresses of mode NAT.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use llb_common::address::Address;
use llb_common::settings::{FLOW_BUDGET, SNAT_ADDRESSES, Settings};

use super::maps::Maps;
use super::setup::PacketSetup;
use super::state::State;
use crate::config::PortRange;

/// The settings to begin with. Source addresses of before stay, as flows use them.
///
/// # Errors
/// The map can't be read.
pub(super) fn first_settings(setup: &PacketSetup, maps: &Maps) -> io::Result<Settings> {
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

impl State<Maps> {
    /// Makes the programs look at replies to these addresses too, which are all that are in use.
    ///
    /// # Errors
    /// The map can't be read or written.
    pub(super) fn add_sources(&mut self, sources: &BTreeSet<IpAddr>) -> io::Result<()> {
        self.set_sources(with_sources(self.settings.snat, sources))
    }

    /// Forgets the addresses that no backend sees any more. Another host may have such an address by now, and no flow
    /// may begin from an address in the settings.
    ///
    /// # Errors
    /// The map can't be read or written.
    pub(super) fn forget_idle_sources(&mut self, sources: &BTreeSet<IpAddr>) -> io::Result<()> {
        let used = self.image.sources().chain(sources.iter().copied()).collect();
        self.set_sources(without_idle(self.settings.snat, &used))
    }

    fn set_sources(&mut self, snat: [Address; SNAT_ADDRESSES]) -> io::Result<()> {
        let settings = Settings { snat, ..self.settings };
        if settings != self.settings {
            // `llb-agent trace` may have set these two meanwhile.
            let current = self.maps.settings.get(&0)?.unwrap_or(settings);
            let written =
                Settings { trace_client: current.trace_client, trace_mask: current.trace_mask, ..settings };
            self.maps.settings.insert(&0, &written)?;
            self.settings = settings;
        }
        Ok(())
    }
}

/// Those of `sources` whose replies the programs look at already.
pub(super) fn known_sources(settings: &Settings, sources: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    sources.into_iter().filter(|source| settings.snat.contains(&Address::from(*source))).collect()
}

/// `known` with `used`, which are in use. If there are too many, others go, those that were added first before
/// all. What is in use stays: when there is no room left, new ones are left out.
fn with_sources(known: [Address; SNAT_ADDRESSES], used: &BTreeSet<IpAddr>) -> [Address; SNAT_ADDRESSES] {
    let used: Vec<Address> = used.iter().copied().map(Address::from).collect();
    let mut all: Vec<Address> = known.into_iter().filter(|address| !address.is_unspecified()).collect();
    for source in &used {
        if all.contains(source) {
            continue;
        }
        if all.len() == SNAT_ADDRESSES {
            let Some(idle) = all.iter().position(|known| !used.contains(known)) else { break };
            all.remove(idle);
        }
        all.push(*source);
    }
    std::array::from_fn(|n| all.get(n).copied().unwrap_or_default())
}

/// Those of `known` that are in use.
fn without_idle(known: [Address; SNAT_ADDRESSES], used: &BTreeSet<IpAddr>) -> [Address; SNAT_ADDRESSES] {
    let used: Vec<Address> = used.iter().copied().map(Address::from).collect();
    let kept: Vec<Address> = known.into_iter().filter(|address| used.contains(address)).collect();
    std::array::from_fn(|n| kept.get(n).copied().unwrap_or_default())
}

/// The ports that the kernel does not give to sockets by itself: those below
/// `net.ipv4.ip_local_port_range`, or those above it where there are more.
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
        // The kernel gives all ports to sockets. Programs take none that a socket has.
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
    fn source_ports_are_those_that_the_kernel_gives_to_no_socket() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(free_beside((32_768, 60_999), 1024), range(1024, 32_767));
        assert_eq!(free_beside((1024, 40_000), 1024), range(40_001, 65_535));
        assert_eq!(free_beside((1024, 65_535), 1024), range(1024, 65_535));
    }

    #[test]
    fn source_addresses_that_are_not_in_use_make_room_the_oldest_first() {
        let address = |n: usize| IpAddr::from([192, 0, 2, n as u8]);
        let none = [Address::default(); SNAT_ADDRESSES];
        let full = with_sources(none, &(0..SNAT_ADDRESSES).map(address).collect());
        let new = with_sources(full, &[address(0), address(200)].into());
        assert_eq!(new[0], Address::from(address(0)), "it is in use");
        assert_eq!(new[1], Address::from(address(2)), "the first one that is idle had to go");
        assert_eq!(new[SNAT_ADDRESSES - 1], Address::from(address(200)));
        assert_eq!(with_sources(new, &BTreeSet::new()), new);
        let one_more = [0, 2, 3, 200, 201].map(address).into();
        assert_eq!(with_sources(new, &one_more), new, "all that are known are in use");
    }

    #[test]
    fn source_addresses_that_no_backend_sees_any_more_are_forgotten() {
        let [old, new] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let both = with_sources([Address::default(); SNAT_ADDRESSES], &[old, new].into());
        let kept = without_idle(both, &[new].into());
        assert!(kept.contains(&Address::from(new)) && !kept.contains(&Address::from(old)));
        assert_eq!(without_idle(both, &[old, new].into()), both);
    }
}
