// SPDX-License-Identifier: Apache-2.0
//! Routed VIPs only: decides in each round whether routers may send clients to this machine, and withdraws the VIPs
//! when the agent ends.

use std::sync::Arc;
use std::time::Duration;

use super::conditions::ProblemsOf;
use super::executor::RoundInput;
use super::reconciler::Reconciler;
use crate::addresses::AddressTable;
use crate::clock;
use crate::dataplane::DataPlane;
use crate::model::{
    Announce, Host, NoPacketPlane, Observed, PlanesState, Problem, ProblemReason, Snapshot, State, Subject,
    VIP_LINK,
};
use crate::status::StatusSink;

/// The time that routers get to send clients elsewhere. A routing daemon tells them at once.
const FAREWELL: Duration = Duration::from_secs(1);

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// Notes why the VIPs must be withdrawn from routers, if there is a reason. Returns whether there is one.
    pub(super) fn look_at_routes(&mut self, observed: &Observed) -> bool {
        let why = match self.policy.announce {
            Announce::L2 => None,
            Announce::Routed => why_withdrawn(&self.facts.host, observed, &self.rooms.plane.describe()),
        };
        match (&self.withdrawn, &why) {
            (None, Some(problem)) => tracing::warn!(%problem, "the VIPs are withdrawn"),
            (Some(_), None) => tracing::info!("the VIPs are on {VIP_LINK} again"),
            _ => {}
        }
        // All addresses change now because llb wants it. Nobody else has removed them, so this is no fight over them.
        if self.withdrawn.is_some() != why.is_some() {
            self.machine.forget_repetitions();
        }
        self.withdrawn = why;
        self.withdrawn.is_some()
    }

    /// Removes the VIPs while everything still serves, and gives routers a moment to send clients elsewhere.
    pub(super) async fn withdraw(&mut self) {
        let before = Arc::clone(&self.desired);
        let routed = before.addresses.iter().filter(|(key, _)| key.link == VIP_LINK);
        let elsewhere = routed.map(|(key, length)| (key.clone(), *length)).collect();
        let frontends = before.frontends.clone();
        self.desired = Arc::new(State { frontends, elsewhere, ..State::default() });
        if self.desired.elsewhere.is_empty() {
            return;
        }
        let (nothing, problems) = (Snapshot::default(), ProblemsOf::new());
        match self.observe(&nothing).await {
            Ok(observed) => {
                let (published, now) = (observed.statuses.clone(), clock::now_std());
                let input =
                    RoundInput { snapshot: &nothing, published: &published, problems: &problems, now };
                self.settle(observed, input, &mut Vec::new()).await;
                tracing::info!(pause = ?FAREWELL, "the VIPs are withdrawn; routers send clients elsewhere now");
                tokio::time::sleep(FAREWELL).await;
            }
            Err(problem) => tracing::warn!(%problem, "the VIPs can't be withdrawn before serving ends"),
        }
    }
}

/// Why routers must send no clients to this machine.
fn why_withdrawn(host: &Host, observed: &Observed, planes: &PlanesState) -> Option<Problem> {
    let cause = if let Some(link) = host.silent_links.first() {
        format!("link {link} is missing or has no carrier; give it back, or take it out of --linkdevice")
    } else if let Some(NoPacketPlane::Failed { error }) = &planes.no_packet_plane {
        format!("there is no packet plane ({error}); mend that, or serve by the relay: --datapath userspace")
    } else {
        let link = observed.unready_links.first()?;
        format!("the packet plane does not serve on link {link} yet; that passes by itself")
    };
    let message = format!("the VIPs are withdrawn, so routers send no clients here: {cause}");
    let subject = Subject::Link(VIP_LINK.to_owned());
    Some(Problem { subject, reason: ProblemReason::NotRoutable, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_led_here_only_while_each_link_carries_and_has_its_program() {
        let told = |host: &Host, observed: &Observed, planes: &PlanesState| {
            why_withdrawn(host, observed, planes).map(|problem| problem.message)
        };
        let (host, observed, planes) = (Host::default(), Observed::default(), PlanesState::default());
        assert_eq!(told(&host, &observed, &planes), None);
        let silent = Host { silent_links: ["eth1".to_owned()].into(), ..Host::default() };
        assert!(
            told(&silent, &observed, &planes).unwrap().contains("link eth1 is missing or has no carrier")
        );
        let unready = Observed { unready_links: ["eth0".to_owned()].into(), ..Observed::default() };
        assert!(told(&host, &unready, &planes).unwrap().contains("does not serve on link eth0 yet"));
        let without = |why| PlanesState { no_packet_plane: Some(why), ..PlanesState::default() };
        let failed = without(NoPacketPlane::Failed { error: "no rights".to_owned() });
        assert!(told(&host, &observed, &failed).unwrap().contains("no packet plane (no rights)"));
        let relay = without(NoPacketPlane::Flag("--datapath userspace"));
        assert_eq!(told(&host, &observed, &relay), None, "the relay was chosen");
    }
}
