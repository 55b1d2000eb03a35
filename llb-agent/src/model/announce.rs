// SPDX-License-Identifier: Apache-2.0
//! How clients find the way to the VIPs.

use serde::Serialize;

/// The link that has the routed VIPs, and nothing else.
pub const VIP_LINK: &str = "llb0";

/// How clients find the way to the VIPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// VIPs are on the link devices, and hosts of their segments find them by ARP and NDP.
    #[default]
    L2,
    /// VIPs are on [`VIP_LINK`], and a routing daemon advertises them to routers.
    Routed,
}
