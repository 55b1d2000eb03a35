// SPDX-License-Identifier: Apache-2.0
//! What an agent does that does not write statuses: it takes no VIP before the writer of its group
//! has published it. Otherwise it could have a VIP that the writer then cannot put on its own link,
//! and that nobody publishes. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::{Observed, State};

/// The VIPs that this agent, or another one of its group, would put on a link, and that no status has. One that is on a
/// link already stays.
pub(super) fn unpublished(desired: &State, observed: &Observed) -> BTreeSet<IpAddr> {
    let published = published(observed);
    let on_links: BTreeSet<IpAddr> = observed.addresses.keys().map(|key| key.address).collect();
    let wanted = desired.addresses.keys().chain(desired.elsewhere.keys()).map(|key| key.address);
    wanted.filter(|vip| !published.contains(vip) && !on_links.contains(vip)).collect()
}

/// The VIPs that statuses have.
pub(super) fn published(observed: &Observed) -> BTreeSet<IpAddr> {
    observed.statuses.values().flat_map(|status| status.vips.iter().map(|vip| vip.ip)).collect()
}

/// The same state without these VIPs.
pub(super) fn without(desired: &State, vips: &BTreeSet<IpAddr>) -> State {
    let mut state = desired.clone();
    state.frontends.retain(|frontend, _| !vips.contains(&frontend.vip));
    state.addresses.retain(|key, _| !vips.contains(&key.address));
    state.elsewhere.retain(|key, _| !vips.contains(&key.address));
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AddressKey, PublishedStatus, PublishedVip, ServiceName};

    #[test]
    fn only_new_vips_wait_for_the_writer() {
        let key = |address: &str| AddressKey { link: "eth0".to_owned(), address: address.parse().unwrap() };
        let wanted = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
        let desired =
            State { addresses: wanted.iter().map(|ip| (key(ip), 24)).collect(), ..State::default() };
        let vip = PublishedVip { ip: "192.0.2.2".parse().unwrap(), proxy: true, ports: Vec::new() };
        let status = PublishedStatus { vips: [vip].into(), ..PublishedStatus::default() };
        let observed = Observed {
            addresses: [(key("192.0.2.1"), 24)].into(),
            statuses: [(ServiceName::new("a", "b"), status)].into(),
            ..Observed::default()
        };
        let waiting = unpublished(&desired, &observed);
        assert_eq!(waiting, ["192.0.2.3".parse().unwrap()].into());
        assert_eq!(without(&desired, &waiting).addresses.len(), 2);
    }
}
