// SPDX-License-Identifier: Apache-2.0
//! A flow as an operator sees it: who talks to whom, through which frontend.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::forwarding::Frontend;

/// The ends of a flow. The order is the order of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowEnds {
    /// What the client talks to.
    pub frontend: Frontend,
    /// Who began the flow.
    pub client: SocketAddr,
    /// Where its packets go.
    pub backend: SocketAddr,
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// TCP: the handshake is not complete.
    Opening,
    /// Both sides may send.
    Open,
    /// TCP: one side has closed.
    Closing,
    /// TCP: both sides have closed, or one has reset the connection.
    Closed,
    /// UDP: no answer has come yet.
    Unanswered,
}

impl fmt::Display for FlowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Unanswered => "unanswered",
        })
    }
}

/// One end of flows that an operator asks for: an address, with a port or with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEnd {
    /// The address; never an IPv4-mapped one.
    pub address: IpAddr,
    /// The port; `None`: any.
    pub port: Option<u16>,
}

/// A text is no [`FlowEnd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give ADDRESS or ADDRESS:PORT, an IPv6 address with a port as [ADDRESS]:PORT")]
pub struct FlowEndError;

impl FlowEnd {
    /// Whether this is what was asked for.
    pub fn is(&self, end: SocketAddr) -> bool {
        self.address == end.ip() && self.port.is_none_or(|port| port == end.port())
    }
}

impl FromStr for FlowEnd {
    type Err = FlowEndError;

    fn from_str(text: &str) -> Result<Self, FlowEndError> {
        let end = |address: IpAddr, port| Self { address: address.to_canonical(), port };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(end(address, None));
        }
        match text.parse::<SocketAddr>() {
            Ok(both) if both.port() != 0 => Ok(end(both.ip(), Some(both.port()))),
            _ => Err(FlowEndError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_an_address_with_or_without_a_port() {
        let end = |text: &str| text.parse::<FlowEnd>();
        let [v4, v6] = ["192.0.2.1:80", "[2001:db8::1]:80"].map(|text| text.parse::<SocketAddr>().unwrap());
        for (text, is_v4, is_v6) in [
            ("192.0.2.1", true, false),
            ("192.0.2.1:80", true, false),
            ("192.0.2.1:81", false, false),
            ("::ffff:192.0.2.1", true, false),
            ("2001:db8::1", false, true),
            ("[2001:db8::1]:80", false, true),
        ] {
            let end = end(text).unwrap();
            assert_eq!((end.is(v4), end.is(v6)), (is_v4, is_v6), "{text}");
        }
        for text in [
            "",
            "web",
            "192.0.2.1:",
            "192.0.2.1:0",
            "192.0.2.1:65536",
            "192.0.2.0/24",
            "192.0.2",
            "\u{1b}[2J",
        ] {
            assert_eq!(end(text), Err(FlowEndError), "{text:?}");
        }
    }
}
