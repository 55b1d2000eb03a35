// SPDX-License-Identifier: Apache-2.0
//! Addresses that rest: a Service had each one until a moment ago, and no other
//! Service gets it yet. Clients, resolvers and neighbours remember an address for
//! a while, and would reach a stranger. Pure; forgotten when the agent ends.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::model::{ServiceName, State};

/// The resting addresses.
#[derive(Debug, Default)]
pub(super) struct Resting {
    /// The Service that had each one, and when another may have it.
    addresses: BTreeMap<IpAddr, (ServiceName, Instant)>,
}

impl Resting {
    /// The addresses that still rest, with the Service that had each one.
    pub(super) fn at(&mut self, now: Instant) -> BTreeMap<IpAddr, ServiceName> {
        self.addresses.retain(|_, (_, until)| *until > now);
        self.addresses.iter().map(|(&address, (name, _))| (address, name.clone())).collect()
    }

    /// Lets the addresses rest that some Service has in `before` and none has in `after`.
    pub(super) fn released(&mut self, before: &State, after: &State, now: Instant, rest: Duration) {
        let used: std::collections::BTreeSet<IpAddr> =
            after.statuses.values().flat_map(|status| status.addresses()).collect();
        for (name, status) in &before.statuses {
            for address in status.addresses() {
                if !used.contains(&address) {
                    self.addresses.insert(address, (name.clone(), now + rest));
                }
            }
        }
        self.addresses.retain(|address, _| !used.contains(address));
    }

    /// When the next address has rested.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.addresses.values().map(|(_, until)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::model::{PublishedStatus, PublishedVip};

    fn state(vips: &[&str]) -> State {
        let vip = |text: &&str| PublishedVip { ip: text.parse().unwrap(), proxy: true, ports: Vec::new() };
        let status = PublishedStatus { vips: vips.iter().map(vip).collect(), ..PublishedStatus::default() };
        State { statuses: [(ServiceName::new("a", "b"), status)].into(), ..State::default() }
    }

    #[test]
    fn a_released_address_rests_for_a_while() {
        let (rest, now) = (Duration::from_secs(60), clock::now_std());
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let mut resting = Resting::default();
        resting.released(&state(&["192.0.2.7", "192.0.2.8"]), &state(&["192.0.2.8"]), now, rest);
        assert_eq!(resting.at(now), [(address, ServiceName::new("a", "b"))].into());
        assert_eq!(resting.next_end(), Some(now + rest));
        assert!(resting.at(now + rest).is_empty());
    }

    #[test]
    fn an_address_that_is_used_again_does_not_rest() {
        let (rest, now) = (Duration::from_secs(60), clock::now_std());
        let mut resting = Resting::default();
        resting.released(&state(&["192.0.2.7"]), &state(&[]), now, rest);
        resting.released(&state(&[]), &state(&["192.0.2.7"]), now, rest);
        assert!(resting.at(now).is_empty());
    }
}
