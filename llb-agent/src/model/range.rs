// SPDX-License-Identifier: Apache-2.0
//! Ranges of addresses. Pools consist of them (`pool.rs`).

use std::fmt;
use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;

use ipnet::{IpNet, PrefixLenError};
use serde::{Serialize, Serializer};

use super::address::{Family, is_usable_vip};

/// A range of addresses of one family, first and last included.
///
/// A CIDR leaves out the addresses that no host may have: the network and broadcast
/// addresses of an IPv4 subnet (RFC 1122 §3.2.1.3), and the subnet-router anycast address
/// of an IPv6 subnet (RFC 4291 §2.6.1). A /31, /32, /127 or /128 has all its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: u128,
    last: u128,
    family: Family,
}

impl AddressRange {
    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family && (self.first..=self.last).contains(&number_of(address))
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    /// The family of all its addresses.
    pub fn family(&self) -> Family {
        self.family
    }

    /// By it, ranges are in the order of their first addresses.
    pub(super) fn start(&self) -> (Family, u128) {
        (self.family, self.first)
    }

    /// As [`start`](Self::start), for its last address.
    pub(super) fn end(&self) -> (Family, u128) {
        (self.family, self.last)
    }

    /// How many addresses it has. All IPv6 addresses are one more than the number can say.
    pub fn size(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// How many of them are IPv4 addresses that end with .0 or .255.
    pub(super) fn buggy_addresses(&self) -> u128 {
        if self.family == Family::V6 {
            return 0;
        }
        // Of the numbers below `end`.
        let below = |end: u128| end.div_ceil(256) + end / 256;
        below(self.last + 1) - below(self.first)
    }

    /// All addresses in order. The iterator is lazy: an IPv6 range may have 2^64 addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        (self.first..=self.last).map(|number| address_of(number, self.family))
    }
}

/// Why a text is not a range.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// A part is not an address.
    #[error("{text:?} is not an IP address; give a CIDR, FIRST-LAST, or a single address")]
    Address {
        /// The part that failed.
        text: String,
        /// Why.
        #[source]
        source: AddrParseError,
    },
    /// The part after the slash is not a prefix length.
    #[error("{text:?} is not a prefix length of this family")]
    PrefixLength {
        /// That part.
        text: String,
    },
    /// The part before the slash is not the start of the subnet.
    #[error("{text} has bits set after its prefix; did you mean {meant}?")]
    HostBits {
        /// As given.
        text: String,
        /// The subnet that the address is in.
        meant: IpNet,
    },
    /// The last address is before the first, or they are of two families.
    #[error("the first address must not come after the last, and both must be of one family")]
    Order,
    /// An address in the range cannot be a VIP.
    #[error("it contains {address}, {what}, which cannot be a VIP")]
    NotUsable {
        /// The first or last address.
        address: IpAddr,
        /// What kind of address it is.
        what: &'static str,
    },
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let text = text.trim();
        let (first, last) = if let Some((address, length)) = text.split_once('/') {
            let address = parse_address(address)?;
            let wrong_length = || RangeError::PrefixLength { text: length.to_owned() };
            let bits = length.parse().map_err(|_| wrong_length())?;
            let net = IpNet::new(address, bits).map_err(|_: PrefixLenError| wrong_length())?;
            if net.network() != address {
                return Err(RangeError::HostBits { text: text.to_owned(), meant: net.trunc() });
            }
            hosts_of(net)
        } else if let Some((first, last)) = text.split_once('-') {
            (parse_address(first)?, parse_address(last)?)
        } else {
            let address = parse_address(text)?;
            (address, address)
        };
        if Family::of(first) != Family::of(last) || first > last {
            return Err(RangeError::Order);
        }
        for address in [first, last] {
            is_usable_vip(address).map_err(|what| RangeError::NotUsable { address, what })?;
        }
        Ok(Self { first: number_of(first), last: number_of(last), family: Family::of(first) })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", address_of(self.first, self.family))?;
        if self.first != self.last {
            write!(f, "-{}", address_of(self.last, self.family))?;
        }
        Ok(())
    }
}

impl Serialize for AddressRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn parse_address(text: &str) -> Result<IpAddr, RangeError> {
    let text = text.trim();
    text.parse().map_err(|source| RangeError::Address { text: text.to_owned(), source })
}

/// The first and last addresses of a subnet that a host may have.
fn hosts_of(net: IpNet) -> (IpAddr, IpAddr) {
    let (first, last) = (number_of(net.network()), number_of(net.broadcast()));
    let (skip_first, skip_last) = match net {
        _ if net.max_prefix_len() - net.prefix_len() <= 1 => (0, 0),
        IpNet::V4(_) => (1, 1),
        IpNet::V6(_) => (1, 0),
    };
    let family = Family::of(net.addr());
    (address_of(first + skip_first, family), address_of(last - skip_last, family))
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The inverse of [`number_of`]; the number comes from an address of `family`.
fn address_of(number: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(std::net::Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(std::net::Ipv6Addr::from_bits(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_show_their_first_and_last_address() {
        for (text, shown) in [
            ("192.0.2.0/29", "192.0.2.1-192.0.2.6"),
            ("192.0.2.0/31", "192.0.2.0-192.0.2.1"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.250 - 192.0.3.4", "192.0.2.250-192.0.3.4"),
            ("2001:db8::/126", "2001:db8::1-2001:db8::3"),
            ("2001:db8::10-2001:db8::20", "2001:db8::10-2001:db8::20"),
        ] {
            assert_eq!(text.parse::<AddressRange>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn bad_ranges_say_what_is_wrong() {
        for (text, said) in [
            ("", "is not an IP address"),
            ("192.0.2.0/33", "prefix length"),
            ("192.0.2.0/x", "prefix length"),
            ("192.0.2.5/24", "did you mean 192.0.2.0/24"),
            ("192.0.2.9-192.0.2.1", "must not come after"),
            ("192.0.2.1-2001:db8::1", "one family"),
            ("127.0.0.0/8", "loopback"),
            ("::/0", "cannot be a VIP"),
        ] {
            let error = text.parse::<AddressRange>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_large_ipv6_range_is_lazy() {
        let range: AddressRange = "2001:db8::/64".parse().unwrap();
        assert_eq!(range.addresses().nth(2), Some("2001:db8::3".parse().unwrap()));
        assert!(range.contains("2001:db8::ffff:ffff:ffff:ffff".parse().unwrap()));
        assert!(!range.contains("2001:db8:0:1::1".parse().unwrap()));
    }
}
