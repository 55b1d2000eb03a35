// SPDX-License-Identifier: Apache-2.0
//! Pools of addresses for VIPs, and which Services may use them. Not: which address a
//! Service gets (`desired/allocate.rs`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::address::Family;
use super::range::{AddressRange, RangeError};

/// Addresses with a name and rules, as `--pool` gives them:
/// `[NAME=]RANGE[,RANGE...][+namespaces=A,B][+auto=false][+shared=true]`. The syntax has no characters
/// that a shell would interpret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    name: Option<String>,
    ranges: Vec<AddressRange>,
    namespaces: BTreeSet<String>,
    auto: bool,
    shared: bool,
}

impl Pool {
    /// The name that the annotation `llb.dev/pool` refers to.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// At least one range, in the order in which addresses are given.
    pub fn ranges(&self) -> &[AddressRange] {
        &self.ranges
    }

    /// Whether Services that name no pool get addresses from it.
    pub fn is_auto(&self) -> bool {
        self.auto
    }

    /// Whether Services of different namespaces may share its addresses if they have the same sharing key.
    pub fn is_shared_across_namespaces(&self) -> bool {
        self.shared
    }

    /// Whether Services of this namespace may have its addresses.
    pub fn is_open_to(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }

    /// The namespaces whose Services may have its addresses; empty: all.
    pub fn namespaces(&self) -> &BTreeSet<String> {
        &self.namespaces
    }

    /// Checks that no two pools have the same name, and no address is in two ranges.
    ///
    /// # Errors
    /// Names the two pools or ranges.
    pub fn check_together(pools: &[Self]) -> Result<(), PoolError> {
        for (position, pool) in pools.iter().enumerate() {
            if let Some(name) = &pool.name
                && pools[..position].iter().any(|other| other.name == pool.name)
            {
                return Err(PoolError::NameTwice { name: name.clone() });
            }
        }
        let ranges: Vec<&AddressRange> = pools.iter().flat_map(|pool| &pool.ranges).collect();
        for (position, &second) in ranges.iter().enumerate() {
            if let Some(&first) = ranges[..position].iter().find(|first| first.overlaps(second)) {
                return Err(PoolError::Overlap { first: first.clone(), second: second.clone() });
            }
        }
        Ok(())
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Whether it has addresses of this family.
    pub fn has_family(&self, family: Family) -> bool {
        self.ranges.iter().any(|range| range.family() == family)
    }
}

/// Why a text is not a pool, or pools cannot be used together.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// One of its ranges is wrong.
    #[error("{text:?} is not a range of addresses")]
    Range {
        /// The range.
        text: String,
        /// What is wrong with it.
        #[source]
        source: RangeError,
    },
    /// The part before the equals sign is not a name.
    #[error("{name:?} is not a pool name: use 1 to 63 of the characters a-z, 0-9 and -")]
    Name {
        /// As given.
        name: String,
    },
    /// A part after a plus sign is not an option.
    #[error(
        "{option:?} is not an option: use namespaces=A,B, auto=true|false and shared=true|false, each at most once"
    )]
    Option {
        /// As given.
        option: String,
    },
    /// `auto=false` without a name.
    #[error(
        "a pool with auto=false needs a name, so that Services can ask for it, as in NAME=RANGE+auto=false"
    )]
    Unreachable,
    /// Two pools have the same name.
    #[error("the name {name} is given twice; give one pool all its ranges, separated by commas")]
    NameTwice {
        /// The name.
        name: String,
    },
    /// Two ranges have addresses in common.
    #[error("{first} and {second} overlap; each address may be in one range only")]
    Overlap {
        /// One range.
        first: AddressRange,
        /// The other range.
        second: AddressRange,
    },
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        let mut parts = text.split('+');
        let head = parts.next().unwrap_or_default();
        let (name, ranges) = match head.split_once('=') {
            Some((name, ranges)) => (Some(parse_name(name.trim())?), ranges),
            None => (None, head),
        };
        let range = |text: &str| {
            text.parse().map_err(|source| PoolError::Range { text: text.trim().to_owned(), source })
        };
        let ranges = ranges.split(',').map(range).collect::<Result<_, _>>()?;
        let (mut namespaces, mut auto, mut shared) = (None, None, None);
        for option in parts {
            let wrong = || PoolError::Option { option: option.to_owned() };
            match option.split_once('=').ok_or_else(wrong)? {
                ("namespaces", list) if namespaces.is_none() => {
                    let list: BTreeSet<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
                    if !list.iter().all(|name| is_label(name)) {
                        return Err(wrong());
                    }
                    namespaces = Some(list);
                }
                ("auto", value) if auto.is_none() => auto = Some(value.parse().map_err(|_| wrong())?),
                ("shared", value) if shared.is_none() => shared = Some(value.parse().map_err(|_| wrong())?),
                _ => return Err(wrong()),
            }
        }
        let pool = Self {
            name,
            ranges,
            namespaces: namespaces.unwrap_or_default(),
            auto: auto.unwrap_or(true),
            shared: shared.unwrap_or(false),
        };
        if pool.name.is_none() && !pool.auto { Err(PoolError::Unreachable) } else { Ok(pool) }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}

impl Serialize for Pool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn parse_name(name: &str) -> Result<String, PoolError> {
    if is_label(name) { Ok(name.to_owned()) } else { Err(PoolError::Name { name: name.to_owned() }) }
}

/// Whether it is an RFC 1123 label, like the name of a namespace.
fn is_label(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_name_ranges_and_rules() {
        let pool: Pool =
            "web=192.0.2.0/29,2001:db8::/126,192.0.2.9+namespaces=shop,crm+auto=false+shared=true"
                .parse()
                .unwrap();
        assert_eq!(pool.to_string(), "web=192.0.2.1-192.0.2.6,2001:db8::1-2001:db8::3,192.0.2.9");
        assert_eq!(pool.name(), Some("web"));
        assert!(!pool.is_auto() && pool.is_shared_across_namespaces());
        assert!(pool.is_open_to("shop") && pool.is_open_to("crm") && !pool.is_open_to("default"));
        assert!(pool.has_family(Family::V4) && pool.has_family(Family::V6));
        assert!(pool.contains("192.0.2.9".parse().unwrap()) && !pool.contains("192.0.2.8".parse().unwrap()));
    }

    #[test]
    fn a_plain_range_is_a_pool_for_everybody() {
        let pool: Pool = "192.0.2.7".parse().unwrap();
        assert_eq!((pool.name(), pool.is_auto(), pool.is_open_to("any")), (None, true, true));
    }

    #[test]
    fn bad_pools_say_what_is_wrong() {
        for (text, said) in [
            ("", "not a range of addresses"),
            ("a=", "not a range of addresses"),
            ("192.0.2.1,", "not a range of addresses"),
            ("Web=192.0.2.1", "not a pool name"),
            ("=192.0.2.1", "not a pool name"),
            ("a=192.0.2.1+shared=", "shared=true|false"),
            ("a=192.0.2.1+auto=no", "auto=true|false"),
            ("a=192.0.2.1+auto=true+auto=true", "at most once"),
            ("a=192.0.2.1+namespaces=", "namespaces=A,B"),
            ("a=192.0.2.1+sticky", "not an option"),
            ("192.0.2.1+auto=false", "needs a name"),
        ] {
            let error = text.parse::<Pool>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
