// SPDX-License-Identifier: Apache-2.0
//! The look at the shares of the group, once in each round.

use std::collections::BTreeSet;

use super::reconciler::Reconciler;
use super::standby;
use crate::addresses::AddressTable;
use crate::dataplane::DataPlane;
use crate::model::{Holding, Observed, Share};
use crate::status::StatusSink;

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// Which VIPs may be on the links of this box in this round.
    pub(super) fn look_at_shares(&mut self, observed: &Observed) -> Holding {
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
}
