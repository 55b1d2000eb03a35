// SPDX-License-Identifier: Apache-2.0
//! The look at the shares of the group, once in each round.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::placements::addresses_of;
use super::reconciler::Reconciler;
use super::standby;
use crate::addresses::AddressTable;
use crate::dataplane::DataPlane;
use crate::model::{Holding, Observed, Share};
use crate::status::StatusSink;

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// Which VIPs may be on the links of this box in this round.
    pub(super) fn look_at_shares(&mut self, observed: &Observed) -> Holding {
        if self.look_at_routes(observed) {
            return Holding::Nothing;
        }
        let (holding, moved) = self.membership.look(&self.facts);
        if self.membership.is_in_group() {
            self.rooms.addresses.trust(standby::published(observed));
        }
        if !moved.is_empty() {
            self.metrics.count_moves(moved.here.len(), moved.away.len());
            let numbers = |shares: &BTreeSet<Share>| {
                shares.iter().map(|share| format!("{} {}", share.link, share.number)).collect::<Vec<_>>()
            };
            tracing::info!(here = ?numbers(&moved.here), away = ?numbers(&moved.away), "keepalived has moved shares");
            // The addresses come and go with them, which nobody has undone.
            self.machine.forget_repetitions();
        }
        holding
    }

    /// keepalived may still move shares while the agent ends. So a VIP that another box has by now is not kept, and a VIP that
    /// `llb-agent share` has added is kept.
    pub(super) fn follow_shares_to_the_end(&mut self) {
        if !self.membership.is_in_group() {
            return;
        }
        let (holding, _) = self.membership.look(&self.facts);
        let desired = Arc::make_mut(&mut self.desired);
        desired.addresses.extend(addresses_of(&desired.kept, &self.facts));
        desired.addresses.retain(|key, _| holding.has(&key.link, key.address));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::super::tests::agent;
    use super::*;
    use crate::model::{AddressKey, Frontend, Link, LinkAddress, Port, Protocol, State};
    use crate::ownership::{Group, News, Ranks, marker};

    #[tokio::test]
    async fn an_ending_agent_lets_shares_go_and_come() {
        let mut agent = agent();
        let group = Group {
            name: "edge".to_owned(),
            member: "box-a".to_owned(),
            ranks: Ranks::new("edge", &["box-a".to_owned()].into()),
            links: vec!["eth0".to_owned()],
        };
        agent.join(group, watch::channel(News::default()).1);
        let key = |vip: &str| AddressKey { link: "eth0".to_owned(), address: vip.parse().unwrap() };
        let [stays, moved, comes] = ["192.0.2.20", "192.0.2.21", "192.0.2.36"].map(key);
        let port = Port::new(80).unwrap();
        let kept =
            [&stays, &moved, &comes].map(|key| Frontend { vip: key.address, port, protocol: Protocol::Tcp });
        let addresses = [(stays.clone(), 24), (moved, 24)].into();
        agent.desired = Arc::new(State { addresses, kept: kept.into(), ..State::default() });
        let there = ["192.0.2.20/24", "192.0.2.21/24", "192.0.2.36/24"];
        let there = there.map(|net| LinkAddress { net: net.parse().unwrap(), ours: true, primary: false });
        agent.facts.links = vec![Link { name: "eth0".to_owned(), addresses: there.into() }];
        agent.facts.host.markers = [marker(0, 4)].into();
        agent.follow_shares_to_the_end();
        assert_eq!(agent.desired.addresses, [(stays, 24), (comes, 24)].into());
    }
}
