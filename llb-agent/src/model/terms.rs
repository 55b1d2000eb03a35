// SPDX-License-Identifier: Apache-2.0
//! How a Service wants its traffic to be treated. Each of its frontends carries these
//! terms; the data planes implement them.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::health::HealthCheck;
use super::mode::Mode;
use super::placement::RelayFeature;

/// The terms of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// How a backend is chosen for a new connection or session; `None`: the plane's own
    /// way, which is least connections in the relay.
    pub balance: Option<Balance>,
    /// The forwarding mode in the packet plane; `None`: `--mode`.
    pub mode: Option<Mode>,
    /// Affinity: a client that comes back within this time gets the same backend, on
    /// every port of the Service.
    pub affinity_timeout: Option<Duration>,
    /// The clients that may connect.
    pub source_ranges: SourceRanges,
    /// The header that is sent to the backend before the first byte of a TCP connection.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The most TCP connections that may be open on all ports of the Service together.
    pub max_connections: Option<NonZeroU32>,
    /// How llb asks each backend of a TCP port whether it works; `None`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

impl Terms {
    /// What only the relay can do of it; `None` if the packet plane can do all of it.
    pub fn relay_feature(&self) -> Option<RelayFeature> {
        if self.proxy_protocol.is_some() {
            Some(RelayFeature::ProxyProtocol)
        } else if self.max_connections.is_some() {
            Some(RelayFeature::MaxConnections)
        } else if self.balance == Some(Balance::LeastConnections) {
            Some(RelayFeature::LeastConnections)
        } else {
            None
        }
    }
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Of two candidates, the backend with fewer open connections relative to its weight.
    #[default]
    LeastConnections,
    /// By the flow's hash, from a Maglev table; with affinity, by the client's address only.
    Maglev,
}

/// A version of the PROXY protocol (haproxy.org, proxy-protocol.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// The header is one line of text.
    V1,
    /// The header is binary.
    V2,
}

/// The client addresses that a Service admits.
///
/// If all ranges are of one family, no client of the other family is admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRanges {
    /// `None`: all clients. Otherwise sorted and disjoint ranges; an empty list admits nobody.
    /// Each port's rule has them, and there may be thousands of both.
    ranges: Option<Arc<[IpNet]>>,
}

impl SourceRanges {
    /// Admits the clients in `ranges` only.
    pub fn only(ranges: &[IpNet]) -> Self {
        let mut ranges = IpNet::aggregate(&ranges.iter().map(IpNet::trunc).collect());
        ranges.sort();
        Self { ranges: Some(ranges.into()) }
    }

    /// The ranges, sorted and disjoint; `None`: all clients are admitted.
    pub fn ranges(&self) -> Option<&[IpNet]> {
        self.ranges.as_deref()
    }

    /// Whether `client` may connect.
    pub fn admits(&self, client: IpAddr) -> bool {
        let Some(ranges) = &self.ranges else { return true };
        // The ranges are disjoint, so only the last one that begins at or before the address can contain it.
        let candidates = ranges.partition_point(|range| range.network() <= client);
        candidates.checked_sub(1).is_some_and(|last| ranges[last].contains(&client))
    }
}

impl fmt::Display for Terms {
    /// Each term that differs from the default, as ` + name value`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.balance {
            None => {}
            Some(Balance::Maglev) => f.write_str(" + maglev")?,
            Some(Balance::LeastConnections) => f.write_str(" + least-connections")?,
        }
        if let Some(mode) = self.mode {
            write!(f, " + {mode}")?;
        }
        if let Some(timeout) = self.affinity_timeout {
            write!(f, " + affinity {timeout:?}")?;
        }
        if let Some(ranges) = &self.source_ranges.ranges {
            let list: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            write!(f, " + only from [{}]", list.join(", "))?;
        }
        if let Some(version) = self.proxy_protocol {
            write!(f, " + PROXY {version:?}")?;
        }
        if let Some(limit) = self.max_connections {
            write!(f, " + at most {limit} connections")?;
        }
        if let Some(check) = &self.health_check {
            write!(f, " + health check {check}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(ranges: &[&str]) -> SourceRanges {
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        SourceRanges::only(&ranges)
    }

    #[test]
    fn source_ranges_admit_their_addresses_only() {
        // Overlapping, host bits set, out of order.
        let ranges = only(&["203.0.113.0/24", "192.0.2.77/26", "192.0.2.64/28", "2001:db8:1::/48"]);
        for (client, expected) in [
            ("192.0.2.63", false),
            ("192.0.2.64", true),
            ("192.0.2.127", true),
            ("192.0.2.128", false),
            ("198.51.100.1", false),
            ("203.0.113.255", true),
            ("255.255.255.255", false),
            ("::", false),
            ("2001:db8::1", false),
            ("2001:db8:1:ffff::1", true),
            ("2001:db8:2::", false),
        ] {
            assert_eq!(ranges.admits(client.parse().unwrap()), expected, "{client}");
        }
    }

    #[test]
    fn without_ranges_all_are_admitted_and_with_an_empty_list_none() {
        let [v4, v6]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let admitted = |ranges: SourceRanges| [ranges.admits(v4), ranges.admits(v6)];
        assert_eq!(admitted(SourceRanges::default()), [true, true]);
        assert_eq!(admitted(only(&[])), [false, false]);
        assert_eq!(admitted(only(&["0.0.0.0/0"])), [true, false]);
        assert_eq!(admitted(only(&["::/0"])), [false, true]);
        assert_eq!(admitted(only(&["::/0", "0.0.0.0/0"])), [true, true]);
    }
}
