//! One address as the kernel describes it, and what it says when it refuses a
//! change. Nothing is changed here.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressMessage;

use super::{AddressError, message};
use crate::model::{AddressKey, LinkAddress};

/// An address as the kernel describes it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) net: IpNet,
    pub(super) ours: bool,
    pub(super) message: AddressMessage,
}

impl Known {
    pub(super) fn link_address(&self) -> LinkAddress {
        LinkAddress { net: self.net, ours: self.ours, primary: message::is_primary(&self.message) }
    }

    /// Whether foreign addresses hang on this one: in IPv4 a primary address
    /// takes the secondary ones of its subnet along, or has one promoted.
    pub(super) fn takes_others(&self, all: &[Self]) -> bool {
        let hangs_on_this = |other: &Self| {
            !other.ours && message::is_secondary(&other.message) && other.net.trunc() == self.net.trunc()
        };
        !message::is_secondary(&self.message) && all.iter().any(hangs_on_this)
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
    use super::*;

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
