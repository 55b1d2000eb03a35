// SPDX-License-Identifier: Apache-2.0
//! The addresses of a link as the kernel described them at the last look, and
//! what it says when it refuses a change. Nothing is changed here.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressMessage;

use super::error::AddressError;
use super::message;
use crate::model::{AddressKey, LinkAddress};

/// What was read is acted on for so long; then it is read again. Long enough
/// that reading thousands of addresses is a small part of changing them all,
/// short because what others do meanwhile is not seen.
pub(super) const LOOK_LASTS: Duration = Duration::from_millis(100);

/// The addresses of one link at one moment, and llb's own changes since.
#[derive(Debug)]
pub(super) struct Look {
    index: u32,
    /// `None` when in doubt.
    at: Option<Instant>,
    addresses: BTreeMap<IpAddr, Vec<Known>>,
}

/// An address as the kernel describes it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) net: IpNet,
    pub(super) ours: bool,
    pub(super) message: AddressMessage,
}

impl Look {
    /// What was read of the link of number `index`, from `at` on.
    pub(super) fn new(index: u32, at: Instant, all: impl IntoIterator<Item = Known>) -> Self {
        let mut look = Self { index, at: Some(at), addresses: BTreeMap::new() };
        for known in all {
            look.insert(known);
        }
        look
    }

    /// Whether it is of that link, and young enough to act on.
    pub(super) fn is_current(&self, index: u32) -> bool {
        self.index == index && self.at.is_some_and(|at| at.elapsed() < LOOK_LASTS)
    }

    /// The number of its link, while it is young enough to act on.
    pub(super) fn current_index(&self) -> Option<u32> {
        Some(self.index).filter(|&index| self.is_current(index))
    }

    /// Something was not as it was read: it is read again before the next change.
    pub(super) fn doubt(&mut self) {
        self.at = None;
    }

    /// Everything with this address, each with another prefix length.
    pub(super) fn at(&self, address: IpAddr) -> &[Known] {
        self.addresses.get(&address).map_or(&[], Vec::as_slice)
    }

    /// llb added it.
    pub(super) fn insert(&mut self, known: Known) {
        self.addresses.entry(known.net.addr()).or_default().push(known);
    }

    /// llb's own with this address, no longer in the look.
    pub(super) fn take_own(&mut self, address: IpAddr) -> Vec<Known> {
        let Some(same) = self.addresses.remove(&address) else { return Vec::new() };
        let (own, foreign): (Vec<_>, Vec<_>) = same.into_iter().partition(|known| known.ours);
        if !foreign.is_empty() {
            self.addresses.insert(address, foreign);
        }
        own
    }

    /// Whether foreign addresses hang on `own`.
    pub(super) fn hangs_on(&self, own: &Known) -> bool {
        let hangs_on_this = |other: &Known| {
            !other.ours && message::is_secondary(&other.message) && other.net.trunc() == own.net.trunc()
        };
        own.may_take_others() && self.addresses.values().flatten().any(hangs_on_this)
    }
}

impl Known {
    pub(super) fn link_address(&self) -> LinkAddress {
        LinkAddress { net: self.net, ours: self.ours, primary: message::is_primary(&self.message) }
    }

    /// Whether others can hang on this one: in IPv4 a primary address takes
    /// the secondary ones of its subnet along, or has one promoted.
    pub(super) fn may_take_others(&self) -> bool {
        self.net.addr().is_ipv4()
            && self.net.prefix_len() < self.net.max_prefix_len()
            && !message::is_secondary(&self.message)
    }
}

/// Whether the kernel makes a secondary address primary when the primary one
/// goes (networking/ip-sysctl): set for all links, or for this one.
pub(super) fn promotes_secondaries(link: &str) -> bool {
    ["all", link].iter().any(|name| {
        let setting = Path::new("/proc/sys/net/ipv4/conf").join(name).join("promote_secondaries");
        std::fs::read_to_string(setting).is_ok_and(|value| value.trim() != "0")
    })
}

/// The kernel's word with the way out.
pub(super) fn refused(verb: &'static str, key: &AddressKey, source: io::Error) -> AddressError {
    let link = key.link.clone();
    match (source.raw_os_error(), key.address) {
        (Some(libc::EPERM), _) => AddressError::NotPermitted { link },
        (Some(libc::ENODEV), _) => AddressError::NoSuchLink { link },
        (Some(libc::EACCES), IpAddr::V6(_)) => AddressError::Ipv6Disabled { link },
        _ => AddressError::Refused { verb, key: key.clone(), source },
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};

    use super::*;

    fn known(net: &str, ours: bool, flags: AddressFlags) -> Known {
        let net = net.parse().unwrap();
        let mut message = message::vip(2, net, ours);
        message.attributes.push(AddressAttribute::Flags(flags));
        Known { net, ours, message }
    }

    #[test]
    fn only_llbs_own_is_taken_out_of_a_look() {
        let (none, vip) = (AddressFlags::empty(), "192.0.2.5".parse().unwrap());
        let both = [known("192.0.2.5/24", true, none), known("192.0.2.5/25", false, none)];
        let mut look = Look::new(2, Instant::now(), both);
        let own: Vec<IpNet> = look.take_own(vip).iter().map(|known| known.net).collect();
        assert_eq!(own, ["192.0.2.5/24".parse().unwrap()]);
        let left: Vec<IpNet> = look.at(vip).iter().map(|known| known.net).collect();
        assert_eq!(left, ["192.0.2.5/25".parse().unwrap()]);
        assert!(look.take_own(vip).is_empty(), "the foreign one stays");
    }

    #[test]
    fn an_old_look_and_one_in_doubt_are_not_acted_on() {
        let mut look = Look::new(2, Instant::now(), []);
        assert!(look.is_current(2));
        assert!(!look.is_current(3), "another link of that name");
        look.doubt();
        assert!(!look.is_current(2));
        let old = Instant::now().checked_sub(LOOK_LASTS).unwrap();
        assert!(!Look::new(2, old, []).is_current(2));
    }

    #[test]
    fn foreign_secondaries_hang_on_a_primary_of_their_subnet() {
        let (none, secondary) = (AddressFlags::empty(), AddressFlags::Secondary);
        for (own, flags, other, ours, expected) in [
            ("192.0.2.5/24", none, "192.0.2.9/24", false, true),
            ("192.0.2.5/24", none, "192.0.2.9/24", true, false),
            ("192.0.2.5/24", none, "198.51.100.9/24", false, false),
            ("192.0.2.5/24", secondary, "192.0.2.9/24", false, false),
            ("2001:db8::5/64", none, "2001:db8::9/64", false, false),
        ] {
            let look = Look::new(2, Instant::now(), [known(other, ours, secondary)]);
            assert_eq!(look.hangs_on(&known(own, true, flags)), expected, "{own} {other}");
        }
    }

    #[test]
    fn the_kernels_refusals_name_the_way_out() {
        for (address, code, expected) in [
            (
                "192.0.2.5",
                libc::EPERM,
                "no permission to change addresses on eth0: run as root or with CAP_NET_ADMIN",
            ),
            ("192.0.2.5", libc::ENODEV, "link eth0 does not exist; `ip link` lists those that do"),
            (
                "2001:db8::5",
                libc::EACCES,
                "IPv6 is disabled on eth0: `sysctl -w net.ipv6.conf.eth0.disable_ipv6=0` enables it",
            ),
            ("192.0.2.5", libc::ENOBUFS, "cannot add 192.0.2.5 on eth0"),
        ] {
            let key = AddressKey { link: "eth0".to_owned(), address: address.parse().unwrap() };
            let error = refused("add", &key, io::Error::from_raw_os_error(code));
            assert_eq!(error.to_string(), expected);
        }
    }
}
