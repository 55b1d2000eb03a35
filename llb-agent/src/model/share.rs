// SPDX-License-Identifier: Apache-2.0
//! Shares: the parts into which the boxes of a group divide the VIPs of a link. Not: which box has
//! which share (`ownership/`).

use std::collections::BTreeSet;
use std::net::IpAddr;

/// The shares of a link. All boxes of a group must agree, so this is no flag.
pub const SHARES: u8 = 16;

/// The share of a VIP. Neighbours in a pool are in different shares.
pub fn share_of(vip: IpAddr) -> u8 {
    let last = match vip {
        IpAddr::V4(vip) => vip.octets()[3],
        IpAddr::V6(vip) => vip.octets()[15],
    };
    last % SHARES
}

/// A share of a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    /// The link's name.
    pub link: String,
    /// Below [`SHARES`].
    pub number: u8,
}

impl Share {
    /// The share of a VIP on a link.
    pub fn of(link: &str, vip: IpAddr) -> Self {
        Self { link: link.to_owned(), number: share_of(vip) }
    }
}

/// The VIPs that may be on the links of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Holding {
    /// All: the machine is in no group.
    #[default]
    All,
    /// None: routers must send no clients to this machine now.
    Nothing,
    /// Those of these shares. Other boxes of the group have the others.
    Shares(BTreeSet<Share>),
}

impl Holding {
    /// Whether a VIP may be on this link.
    pub fn has(&self, link: &str, vip: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Shares(shares) => shares.contains(&Share::of(link, vip)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_in_different_shares_and_the_last_byte_decides() {
        let share = |vip: &str| share_of(vip.parse().unwrap());
        assert_eq!(["192.0.2.0", "192.0.2.1", "192.0.2.15", "192.0.2.16"].map(share), [0, 1, 15, 0]);
        assert_eq!(["2001:db8::7", "2001:db8::17", "2001:db8::1f"].map(share), [7, 7, 15]);
    }

    #[test]
    fn without_a_group_every_vip_may_be_here() {
        let vip = "192.0.2.20".parse().unwrap();
        assert!(Holding::All.has("eth0", vip));
        let four = Holding::Shares([Share { link: "eth0".to_owned(), number: 4 }].into());
        assert!(four.has("eth0", vip));
        assert!(!four.has("eth1", vip), "the share of another link");
        assert!(!four.has("eth0", "192.0.2.21".parse().unwrap()));
    }
}
