// SPDX-License-Identifier: Apache-2.0
//! The part of the table that only routed VIPs need: the link that has them. llb makes it with the first VIP and removes it
//! when it ends. If somebody else has made a link of that name, llb uses it and leaves it there.

use std::collections::BTreeSet;

use super::NetlinkAddresses;
use crate::addresses::error::AddressError;
use crate::error_chain::ErrorChain;
use crate::model::{AddressKey, Link, Problem, ProblemReason, Subject, VIP_LINK};
use crate::netlink::LinkDevice;

/// The alias of a link that llb has made.
const MARK: &str = "VIPs of llb-agent";

/// The kinds of links that are connected to nothing. Any other kind would announce the VIPs, or stop serving its own purpose.
const KINDS: [&str; 2] = ["dummy", "bridge"];

impl NetlinkAddresses {
    /// The number of the link that is to get an address.
    pub(super) async fn index_of(&mut self, name: &str) -> Result<u32, AddressError> {
        if let Some(found) = self.links.find(&mut self.connection, name).await? {
            return Ok(found.ifindex);
        }
        let missing = || AddressError::NoSuchLink { link: name.to_owned() };
        if name != VIP_LINK {
            return Err(missing());
        }
        self.make_vip_link().await?;
        // This also takes the link's lock. If another agent has made the link at the same moment, that agent has the lock.
        self.links.present(&mut self.connection).await?;
        let found = self.links.find(&mut self.connection, name).await?;
        found.map(|link| link.ifindex).ok_or_else(missing)
    }

    async fn make_vip_link(&mut self) -> Result<(), AddressError> {
        let refused = |source| AddressError::LinkNotMade { link: VIP_LINK.to_owned(), source };
        match self.connection.make_idle_link(VIP_LINK).await {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => return Ok(()),
            made => made.map_err(refused)?,
        }
        let Some(link) = self.connection.link(VIP_LINK).await.map_err(AddressError::Read)? else {
            return Ok(());
        };
        tracing::info!(link = VIP_LINK, kind = link.kind, "made the link of routed VIPs");
        if let Err(error) = self.connection.set_alias(link.ifindex, MARK).await {
            tracing::warn!(error = %ErrorChain(&error), link = VIP_LINK, "cannot mark the link as llb's, so it stays when llb ends");
        }
        Ok(())
    }

    /// Notes which link devices have no carrier, and what is wrong with the link of routed VIPs.
    pub(super) fn look_at_links(&mut self, present: &[LinkDevice]) {
        let names = self.links.names();
        if !names.iter().any(|name| name == VIP_LINK) {
            return;
        }
        let runs = |name: &String| present.iter().any(|link| link.name == *name && link.is_running);
        self.host.silent_links =
            names.iter().filter(|name| *name != VIP_LINK && !runs(name)).cloned().collect();
        let vip_link = present.iter().find(|link| link.name == VIP_LINK);
        self.vip_link_problem = vip_link.and_then(problem);
    }

    /// Removes the link of routed VIPs, if llb made it and has no VIP there any more.
    pub(super) async fn remove_vip_link(&mut self) -> Result<(), AddressError> {
        let Some(link) = self.links.find(&mut self.connection, VIP_LINK).await? else { return Ok(()) };
        let addresses = self.read_again(VIP_LINK, link.ifindex).await?;
        if link.alias.as_deref() != Some(MARK) || addresses.has_any_of_ours() {
            return Ok(());
        }
        let removed = self.connection.remove_link(link.ifindex).await;
        removed.map_err(|source| AddressError::LinkNotRemoved { link: VIP_LINK.to_owned(), source })
    }

    /// The links on which hosts are found by ARP and NDP, and llb's addresses there. Nobody uses these to find a routed VIP.
    pub(super) fn with_neighbours(
        present: &[LinkDevice],
        links: &[Link],
    ) -> (Vec<LinkDevice>, BTreeSet<AddressKey>) {
        let own = links.iter().filter(|link| link.name != VIP_LINK).flat_map(|link| {
            let ours = link.addresses.iter().filter(|known| known.ours);
            ours.map(|known| AddressKey { link: link.name.clone(), address: known.net.addr() })
        });
        (present.iter().filter(|link| link.name != VIP_LINK).cloned().collect(), own.collect())
    }
}

fn problem(link: &LinkDevice) -> Option<Problem> {
    let is_idle = link.kind.as_deref().is_some_and(|kind| KINDS.contains(&kind));
    let message = match (is_idle, link.is_running) {
        (true, true) => return None,
        (true, false) => {
            format!("it is down, so routers learn of no VIP; `ip link set {VIP_LINK} up` sets it up")
        }
        (false, _) => format!(
            "it is of kind {}, but the link of routed VIPs must be a dummy link or a bridge without ports; rename it, and llb \
             makes another one",
            link.kind.as_deref().unwrap_or("card")
        ),
    };
    let subject = Subject::Link(VIP_LINK.to_owned());
    Some(Problem { subject, reason: ProblemReason::NotRoutable, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_idle_link_that_is_up_can_have_routed_vips() {
        let told = |kind: Option<&str>, is_running| {
            let link = LinkDevice {
                name: VIP_LINK.to_owned(),
                ifindex: 7,
                mac: None,
                mtu: 1500,
                kind: kind.map(str::to_owned),
                alias: None,
                below: None,
                master: None,
                xdp: None,
                is_up: true,
                is_running,
                is_ethernet: true,
                has_neighbours: true,
            };
            problem(&link).map(|problem| problem.message)
        };
        assert_eq!(told(Some("dummy"), true), None);
        assert_eq!(told(Some("bridge"), true), None);
        assert!(told(Some("dummy"), false).unwrap().ends_with("`ip link set llb0 up` sets it up"));
        assert!(told(None, true).unwrap().starts_with("it is of kind card, "));
        assert!(told(Some("vlan"), true).unwrap().starts_with("it is of kind vlan, "));
    }
}
