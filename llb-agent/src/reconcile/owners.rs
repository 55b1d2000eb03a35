// SPDX-License-Identifier: Apache-2.0
//! For which Services a frontend, an address or a status is. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{AddressKey, Frontend, Mac, Port, Problem, ProblemReason, Protocol, ServiceName, State};
use crate::plan::ActionKey;

/// The Services that need the object `key`.
pub(super) fn owners(desired: &State, key: &ActionKey) -> BTreeSet<ServiceName> {
    match key {
        ActionKey::Frontend(frontend) => {
            desired.frontends.get(frontend).map(|rule| rule.service.clone()).into_iter().collect()
        }
        ActionKey::Address(key) => {
            let first = Frontend { vip: key.address, port: Port::MIN, protocol: Protocol::Tcp };
            let on_vip = desired.frontends.range(first..);
            let on_vip = on_vip.take_while(|(frontend, _)| frontend.vip == key.address);
            on_vip.map(|(_, rule)| rule.service.clone()).collect()
        }
        ActionKey::Status(service) => BTreeSet::from([service.clone()]),
    }
}

/// Problems for VIPs that are on their links and that another host claims too.
pub(super) fn conflicts(claimed: BTreeMap<AddressKey, Mac>, desired: &State) -> Vec<Problem> {
    let of_address = |(key, mac): (AddressKey, Mac)| {
        let message = format!(
            "another host ({mac}) also claims {key}, so clients reach one or the other; take the address from one of them"
        );
        let owners = owners(desired, &ActionKey::Address(key));
        owners
            .into_iter()
            .map(move |name| Problem::of_service(&name, ProblemReason::VipConflict, message.clone()))
    };
    claimed.into_iter().flat_map(of_address).collect()
}
