// SPDX-License-Identifier: Apache-2.0
//! Addresses, ports, protocols: the parts of a frontend.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `address`. A v4-mapped IPv6 address counts as IPv6.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The prefix length of a single address: 32 or 128.
    pub fn host_prefix(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A port number, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port(NonZeroU16);

impl Port {
    /// The lowest port, 1.
    pub const MIN: Self = Self(NonZeroU16::MIN);

    /// `None` for 0 and for anything that does not fit in 16 bits.
    pub fn new(number: i64) -> Option<Self> {
        u16::try_from(number).ok().and_then(NonZeroU16::new).map(Self)
    }

    /// The number, host byte order.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The transport protocols that llb forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// The name as Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The Ethernet address of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Whether an address can be a VIP: a unicast address that other hosts can send to.
/// The error says what kind of address it is otherwise.
pub fn is_usable_vip(address: IpAddr) -> Result<(), &'static str> {
    if address.is_unspecified() {
        return Err("the unspecified address");
    }
    if address.is_loopback() {
        return Err("a loopback address");
    }
    if address.is_multicast() {
        return Err("a multicast address");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Err("the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Err("a link-local address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Err("an address of \"this network\" (0.0.0.0/8)"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Err("a reserved address (240.0.0.0/4)"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Err("a link-local address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err("a v4-mapped address"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_1_to_65535() {
        assert_eq!(Port::new(0), None);
        assert_eq!(Port::new(-1), None);
        assert_eq!(Port::new(65_536), None);
        assert_eq!(Port::new(65_535).map(Port::get), Some(65_535));
    }

    #[test]
    fn only_unicast_addresses_can_be_vips() {
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.5",
            "255.255.255.255",
            "169.254.1.1",
            "240.0.0.1",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
            "::ffff:192.0.2.1",
        ] {
            assert!(is_usable_vip(bad.parse().unwrap()).is_err(), "{bad}");
        }
        for good in ["192.0.2.1", "10.0.0.0", "2001:db8::1", "fd00::1"] {
            assert!(is_usable_vip(good.parse().unwrap()).is_ok(), "{good}");
        }
    }
}
