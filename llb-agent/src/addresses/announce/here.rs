// SPDX-License-Identifier: Apache-2.0
//! Which VIPs are on this box of a group now, by the addresses that the kernel has, and by the markers of keepalived.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::message;
use crate::error_chain::ErrorChain;
use crate::model::share_of;
use crate::netlink::Connection;
use crate::ownership::is_marker;

/// The addresses of this machine. By default nothing is known.
#[derive(Debug, Default)]
pub(super) struct Here {
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    /// With the numbers of their links.
    addresses: BTreeSet<(u32, IpAddr)>,
    /// The shares with a marker, of whichever link.
    shares: BTreeSet<u8>,
}

impl Here {
    /// Asks the kernel. If that fails, nothing is known.
    pub(super) async fn look() -> Self {
        let read = async { Connection::open()?.addresses().await };
        match read.await {
            Ok(messages) => {
                let nets = messages.iter().filter_map(|all| Some((all.header.index, message::net(all)?)));
                Self::of(nets.map(|(index, net)| (index, net.addr())))
            }
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "cannot read which VIPs are here; they are announced");
                Self::default()
            }
        }
    }

    fn of(addresses: impl Iterator<Item = (u32, IpAddr)>) -> Self {
        let addresses: BTreeSet<_> = addresses.collect();
        let shares = addresses.iter().filter_map(|(_, address)| match address {
            IpAddr::V4(address) if is_marker(*address) => Some(address.octets()[3]),
            _ => None,
        });
        Self { known: Some(Known { shares: shares.collect(), addresses }) }
    }

    /// Whether the VIP is on that link and keepalived has not taken its share away.
    pub(super) fn may_have(&self, index: u32, vip: IpAddr) -> bool {
        let Some(Known { addresses, shares }) = &self.known else { return true };
        addresses.contains(&(index, vip)) && shares.contains(&share_of(vip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_is_here_with_its_address_and_its_marker() {
        let all = [(1, "127.0.0.1"), (1, "127.86.0.4"), (2, "192.0.2.20"), (2, "192.0.2.21")];
        let here = Here::of(all.into_iter().map(|(index, address)| (index, address.parse().unwrap())));
        let may_have = |index, vip: &str| here.may_have(index, vip.parse().unwrap());
        assert!(may_have(2, "192.0.2.20"));
        assert!(!may_have(3, "192.0.2.20"), "another link");
        assert!(!may_have(2, "192.0.2.36"), "its address is away");
        assert!(!may_have(2, "192.0.2.21"), "its share is away");
        assert!(Here::default().may_have(2, "192.0.2.21".parse().unwrap()), "nothing is known");
    }
}
