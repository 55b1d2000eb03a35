// SPDX-License-Identifier: Apache-2.0
//! The addresses of a link, as the kernel described them when they were last
//! read. Pure: time comes in as an argument, and nothing is changed here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressMessage;

use super::message;
use crate::model::LinkAddress;

/// A reading that is older than this is not used. Long enough that reading
/// thousands of addresses takes a small part of the time of changing them all;
/// short, because changes by others since then are not seen.
pub(super) const READING_LIFETIME: Duration = Duration::from_millis(100);

/// The addresses of one link at one moment, and llb's own changes since then.
#[derive(Debug)]
pub(super) struct Reading {
    index: u32,
    /// `None` once the reading turned out to be wrong.
    at: Option<Instant>,
    addresses: BTreeMap<IpAddr, Vec<KernelAddress>>,
}

/// An address as the kernel describes it.
#[derive(Debug)]
pub(super) struct KernelAddress {
    pub(super) net: IpNet,
    pub(super) ours: bool,
    pub(super) message: AddressMessage,
}

impl Reading {
    /// The reading of the link of number `index` that began at `at`.
    pub(super) fn new(index: u32, at: Instant, all: impl IntoIterator<Item = KernelAddress>) -> Self {
        let mut reading = Self { index, at: Some(at), addresses: BTreeMap::new() };
        for address in all {
            reading.insert(address);
        }
        reading
    }

    /// Whether it is about that link and young enough.
    pub(super) fn is_current(&self, index: u32, now: Instant) -> bool {
        self.index == index && self.at.is_some_and(|at| now.duration_since(at) < READING_LIFETIME)
    }

    /// The number of its link, if it is young enough.
    pub(super) fn current_index(&self, now: Instant) -> Option<u32> {
        self.is_current(self.index, now).then_some(self.index)
    }

    /// The kernel's state is not as it was read: it must be read again before
    /// the next change.
    pub(super) fn invalidate(&mut self) {
        self.at = None;
    }

    /// The entries with this address; they differ in their prefix length.
    pub(super) fn with_address(&self, address: IpAddr) -> &[KernelAddress] {
        self.addresses.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Records an address that llb added.
    pub(super) fn insert(&mut self, address: KernelAddress) {
        self.addresses.entry(address.net.addr()).or_default().push(address);
    }

    /// Removes llb's own entries with this address from the reading, and returns
    /// them.
    pub(super) fn take_own(&mut self, address: IpAddr) -> Vec<KernelAddress> {
        let Some(same) = self.addresses.remove(&address) else { return Vec::new() };
        let (own, foreign): (Vec<_>, Vec<_>) = same.into_iter().partition(|known| known.ours);
        if !foreign.is_empty() {
            self.addresses.insert(address, foreign);
        }
        own
    }

    /// Whether llb added one of the addresses.
    pub(super) fn has_any_of_ours(&self) -> bool {
        self.addresses.values().flatten().any(|known| known.ours)
    }

    /// Whether the kernel would remove foreign addresses together with `own`.
    pub(super) fn has_foreign_dependents(&self, own: &KernelAddress) -> bool {
        let depends = |other: &KernelAddress| {
            !other.ours && message::is_secondary(&other.message) && other.net.trunc() == own.net.trunc()
        };
        own.may_have_dependents() && self.addresses.values().flatten().any(depends)
    }
}

impl KernelAddress {
    pub(super) fn link_address(&self) -> LinkAddress {
        LinkAddress { net: self.net, ours: self.ours, primary: message::is_primary(&self.message) }
    }

    /// Whether other addresses can depend on this one. When a primary IPv4
    /// address is removed, the kernel also removes the secondary ones of its
    /// subnet, or makes one of them primary.
    pub(super) fn may_have_dependents(&self) -> bool {
        self.net.addr().is_ipv4()
            && self.net.prefix_len() < self.net.max_prefix_len()
            && !message::is_secondary(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};

    use super::*;
    use crate::clock;

    fn known(net: &str, ours: bool, flags: AddressFlags) -> KernelAddress {
        let net = net.parse().unwrap();
        let mut message = message::vip(2, net, ours);
        message.attributes.push(AddressAttribute::Flags(flags));
        KernelAddress { net, ours, message }
    }

    #[test]
    fn only_llbs_own_addresses_are_taken_out_of_a_reading() {
        let (none, vip) = (AddressFlags::empty(), "192.0.2.5".parse().unwrap());
        let both = [known("192.0.2.5/24", true, none), known("192.0.2.5/25", false, none)];
        let mut reading = Reading::new(2, clock::now_std(), both);
        let own: Vec<IpNet> = reading.take_own(vip).iter().map(|known| known.net).collect();
        assert_eq!(own, ["192.0.2.5/24".parse().unwrap()]);
        let left: Vec<IpNet> = reading.with_address(vip).iter().map(|known| known.net).collect();
        assert_eq!(left, ["192.0.2.5/25".parse().unwrap()]);
        assert!(reading.take_own(vip).is_empty(), "the foreign one stays");
    }

    #[test]
    fn an_old_or_invalidated_reading_is_not_used() {
        let now = clock::now_std();
        let mut reading = Reading::new(2, now, []);
        assert!(reading.is_current(2, now));
        assert!(!reading.is_current(3, now), "another link with the same name");
        assert!(!reading.is_current(2, now + READING_LIFETIME));
        reading.invalidate();
        assert!(!reading.is_current(2, now));
    }

    #[test]
    fn foreign_secondary_addresses_depend_on_a_primary_one_of_their_subnet() {
        let (none, secondary) = (AddressFlags::empty(), AddressFlags::Secondary);
        for (own, flags, other, ours, expected) in [
            ("192.0.2.5/24", none, "192.0.2.9/24", false, true),
            ("192.0.2.5/24", none, "192.0.2.9/24", true, false),
            ("192.0.2.5/24", none, "198.51.100.9/24", false, false),
            ("192.0.2.5/24", secondary, "192.0.2.9/24", false, false),
            ("2001:db8::5/64", none, "2001:db8::9/64", false, false),
        ] {
            let reading = Reading::new(2, clock::now_std(), [known(other, ours, secondary)]);
            assert_eq!(reading.has_foreign_dependents(&known(own, true, flags)), expected, "{own} {other}");
        }
    }
}
