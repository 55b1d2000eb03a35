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
use super::selector::{Selector, SelectorError};
use super::service::{Service, ServiceName};

/// Addresses with a name and rules, as `--pool` gives them: `[NAME=]RANGE[,RANGE...][+OPTION=VALUE...]`.
/// Nothing that an option needs is interpreted by a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    name: Option<String>,
    ranges: Vec<AddressRange>,
    options: PoolOptions,
}

/// What follows the ranges; `None`: not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PoolOptions {
    namespaces: Option<BTreeSet<String>>,
    selector: Option<Selector>,
    auto: Option<bool>,
    shared: Option<bool>,
    routed: Option<bool>,
    avoid_buggy_ips: Option<bool>,
}

/// How much of a pool is in use, for one of its families.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolUsage {
    /// Its name; its ranges if it has none.
    pub pool: String,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Addresses that it can give. More than the number can say count as its largest value.
    pub total: u64,
    /// Those of them that Services have.
    pub used: u64,
    /// Routers lead clients to its addresses, which need be in no subnet of a link.
    pub routed: bool,
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
        self.options.auto.unwrap_or(true)
    }

    /// Whether Services of different namespaces may share its addresses if they have the same sharing key.
    pub fn is_shared_across_namespaces(&self) -> bool {
        self.options.shared.unwrap_or(false)
    }

    /// Whether routers lead clients to its addresses: they need be in no subnet of a link.
    pub fn is_routed(&self) -> bool {
        self.options.routed.unwrap_or(false)
    }

    /// Whether this Service may have its addresses.
    pub fn is_open_to(&self, name: &ServiceName, service: &Service) -> bool {
        self.why_closed(name, service).is_none()
    }

    /// Whom it is for instead; `None` if it is for this Service.
    pub fn why_closed(&self, name: &ServiceName, service: &Service) -> Option<String> {
        if let Some(namespaces) = &self.options.namespaces
            && !namespaces.contains(&*name.namespace)
        {
            let namespaces: Vec<&str> = namespaces.iter().map(String::as_str).collect();
            return Some(format!("namespace {} only, not for {}", namespaces.join(", "), name.namespace));
        }
        let selector = self.options.selector.as_ref()?;
        let is_selected = selector.matches(&service.labels);
        (!is_selected).then(|| format!("Services with the labels {selector} only"))
    }

    /// Its addresses of one family in the order in which they are given. The iterator is lazy.
    pub fn addresses(&self, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        let ranges = self.ranges.iter().filter(move |range| range.family() == family);
        ranges.flat_map(AddressRange::addresses).filter(|address| !self.avoids(*address))
    }

    /// Whether it gives an address to Services that do not ask for it.
    pub fn gives(&self, address: IpAddr) -> bool {
        self.contains(address) && !self.avoids(address)
    }

    /// Whether it does not give an address of its own accord, because some devices take it for a
    /// network or broadcast address. A Service may ask for it.
    fn avoids(&self, address: IpAddr) -> bool {
        self.options.avoid_buggy_ips == Some(true) && is_buggy(address)
    }

    /// How many addresses of this family it can give.
    pub fn size(&self, family: Family) -> u128 {
        let ranges = self.ranges.iter().filter(|range| range.family() == family);
        let avoids = self.options.avoid_buggy_ips == Some(true);
        ranges.fold(0, |size: u128, range| {
            let left_out = if avoids { range.buggy_addresses() } else { 0 };
            size.saturating_add(range.size().saturating_sub(left_out))
        })
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
        "{option:?} is not an option: use namespaces=A,B, selector=LABELS, and auto, shared, routed and \
         avoid-buggy-ips with =true|false, each at most once"
    )]
    Option {
        /// As given.
        option: String,
    },
    /// `selector`.
    #[error("{option:?} is not an option")]
    Selector {
        /// As given.
        option: String,
        /// What is wrong with it.
        #[source]
        source: SelectorError,
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

impl PoolError {
    /// Whether `pool` is the later one of two that can't be used together. The earlier one may be like it.
    pub fn is_about(&self, pool: &Pool) -> bool {
        match self {
            Self::NameTwice { name } => pool.name.as_ref() == Some(name),
            Self::Overlap { second, .. } => pool.ranges.contains(second),
            _ => false,
        }
    }
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
        let mut options = PoolOptions::default();
        parts.try_for_each(|option| options.add(option))?;
        let pool = Self { name, ranges, options };
        if pool.name.is_none() && !pool.is_auto() { Err(PoolError::Unreachable) } else { Ok(pool) }
    }
}

impl PoolOptions {
    fn add(&mut self, option: &str) -> Result<(), PoolError> {
        let wrong = || PoolError::Option { option: option.to_owned() };
        let (name, value) = option.split_once('=').ok_or_else(wrong)?;
        let switch = match name {
            "namespaces" => {
                let list: BTreeSet<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
                let is_fine = list.iter().all(|name| is_label(name)) && self.namespaces.is_none();
                self.namespaces = Some(list);
                return if is_fine { Ok(()) } else { Err(wrong()) };
            }
            "selector" if self.selector.is_none() => {
                let selector = value.parse();
                let wrong = |source| PoolError::Selector { option: option.to_owned(), source };
                self.selector = Some(selector.map_err(wrong)?);
                return Ok(());
            }
            "auto" => &mut self.auto,
            "shared" => &mut self.shared,
            "routed" => &mut self.routed,
            "avoid-buggy-ips" => &mut self.avoid_buggy_ips,
            _ => return Err(wrong()),
        };
        match value.parse() {
            Ok(value) if switch.is_none() => *switch = Some(value),
            _ => return Err(wrong()),
        }
        Ok(())
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

/// Whether some devices take the address for a network or broadcast address, whatever its subnet is.
fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if matches!(v4.octets(), [_, _, _, 0 | 255]))
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
        let is_open_to =
            |namespace| pool.is_open_to(&ServiceName::new(namespace, "web"), &Service::default());
        assert!(is_open_to("shop") && is_open_to("crm") && !is_open_to("default"));
        assert!(pool.has_family(Family::V4) && pool.has_family(Family::V6));
        assert!(pool.contains("192.0.2.9".parse().unwrap()) && !pool.contains("192.0.2.8".parse().unwrap()));
    }

    #[test]
    fn a_plain_range_is_a_pool_for_everybody() {
        let pool: Pool = "192.0.2.7".parse().unwrap();
        let is_open = pool.is_open_to(&ServiceName::new("any", "web"), &Service::default());
        assert_eq!((pool.name(), pool.is_auto(), is_open), (None, true, true));
    }

    #[test]
    fn a_selector_is_for_the_labels_of_services() {
        let pool: Pool = "192.0.2.7+selector=tier=gold,!spare+namespaces=shop".parse().unwrap();
        let why = |namespace, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let service = Service { labels: labels.collect(), ..Service::default() };
            pool.why_closed(&ServiceName::new(namespace, "web"), &service)
        };
        assert_eq!(why("shop", &[("tier", "gold")]), None);
        let selected = "Services with the labels tier=gold,!spare only";
        assert_eq!(why("shop", &[("tier", "gold"), ("spare", "")]).as_deref(), Some(selected));
        assert_eq!(
            why("crm", &[("tier", "gold")]).as_deref(),
            Some("namespace shop only, not for crm"),
            "both must fit"
        );
    }

    #[test]
    fn addresses_that_confuse_devices_are_given_only_on_request() {
        let pool: Pool =
            "192.0.2.254-192.0.3.1,2001:db8::ff-2001:db8::100+avoid-buggy-ips=true".parse().unwrap();
        let given: Vec<String> = pool.addresses(Family::V4).map(|address| address.to_string()).collect();
        assert_eq!(given, ["192.0.2.254", "192.0.3.1"]);
        assert!(pool.contains("192.0.2.255".parse().unwrap()));
        assert_eq!((pool.size(Family::V4), pool.size(Family::V6)), (2, 2));
        let all: Pool = "192.0.2.254-192.0.3.1".parse().unwrap();
        assert_eq!((all.size(Family::V4), all.addresses(Family::V4).count()), (4, 4));
        for (range, size) in [("10.0.0.0-10.0.1.255", 508), ("10.0.0.1-10.0.0.254", 254), ("10.0.0.0", 0)] {
            let pool: Pool = format!("{range}+avoid-buggy-ips=true").parse().unwrap();
            assert_eq!(pool.size(Family::V4), size, "{range}");
            assert_eq!(pool.addresses(Family::V4).count() as u128, size, "{range}");
        }
    }

    #[test]
    fn bad_pools_say_what_is_wrong() {
        for (text, said) in [
            ("", "not a range of addresses"),
            ("a=", "not a range of addresses"),
            ("192.0.2.1,", "not a range of addresses"),
            ("Web=192.0.2.1", "not a pool name"),
            ("=192.0.2.1", "not a pool name"),
            ("a=192.0.2.1+shared=", "=true|false"),
            ("a=192.0.2.1+auto=no", "=true|false"),
            ("a=192.0.2.1+routed=1", "=true|false"),
            ("a=192.0.2.1+selector=a in (b)", "is not an option"),
            ("a=192.0.2.1+selector=a+selector=b", "at most once"),
            ("a=192.0.2.1+namespaces=a+namespaces=b", "at most once"),
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
