// SPDX-License-Identifier: Apache-2.0
//! Markers: addresses that keepalived puts on `lo` while a share is this box's. A restarted agent looks,
//! and knows.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::model::{Holding, SHARES, Share};

/// The link that has the markers.
pub const LOOPBACK: &str = "lo";

/// Markers are in this /16 of the loopback network: the third byte is the link's place on the command line,
/// the fourth one the share.
const NETWORK: [u8; 2] = [127, 86];

/// The marker of a share of the link that is number `link` on the command line.
pub fn marker(link: u8, share: u8) -> Ipv4Addr {
    Ipv4Addr::new(NETWORK[0], NETWORK[1], link, share)
}

/// Whether an address on `lo` is the marker of some share.
pub fn is_marker(address: Ipv4Addr) -> bool {
    address.octets()[..2] == NETWORK
}

/// The shares of these links, in the order of the command line, whose markers are there.
pub fn holding(links: &[String], markers: &BTreeSet<Ipv4Addr>) -> Holding {
    let shares = markers.iter().filter(|address| is_marker(**address)).filter_map(|address| {
        let [_, _, link, number] = address.octets();
        let link = links.get(usize::from(link))?;
        (number < SHARES).then(|| Share { link: link.clone(), number })
    });
    Holding::Shares(shares.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_name_shares_and_other_addresses_nothing() {
        let links = ["eth0".to_owned(), "eth1".to_owned()];
        let markers = [marker(0, 3), marker(1, 15), marker(2, 0), marker(0, 16), Ipv4Addr::LOCALHOST];
        let share = |link: &str, number| Share { link: link.to_owned(), number };
        let expected = Holding::Shares([share("eth0", 3), share("eth1", 15)].into());
        assert_eq!(holding(&links, &markers.into()), expected);
        assert_eq!(holding(&links, &BTreeSet::new()), Holding::Shares(BTreeSet::new()));
        assert_eq!(marker(1, 15).to_string(), "127.86.1.15");
    }
}
