// SPDX-License-Identifier: Apache-2.0
//! All planes as one: each frontend goes to the first plane that can serve it, and moves
//! from one to another without a gap. Which plane that is, is decided in `placement.rs`.
//!
//! ```text
//!   relay to packet:  packets that open a connection first; those of old connections stay with the
//!                     relay until they have ended (`advance`), with the relay of an agent before this one, too
//!   packet to relay:  the relay listens first; then the packet plane takes known flows only, until they end
//! ```
//!
//! The relay listens beside the packet plane too, for clients whose packets no program sees: on this
//! machine, in its Pods, and behind links without a program. What the programs pass to the kernel would
//! reach those listeners, so they open after the programs take all of a frontend's packets, and close
//! before the programs take fewer.
//!
//! While another agent is still in charge (see `handover`), the packet plane belongs to that
//! agent: what may be in its maps counts as served, and nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backend_states::BackendStates;
use super::counting::Counting;
use super::data_plane::{DataPlane, DataPlaneError};
use super::held_ports::HeldPorts;
use super::kernel_connections;
use super::packet::{LinkLocks, PacketError, PacketPlane};
use super::placement::{packet_plane_off, relay_feature};
use super::proxy::{ProxyPlane, RelaySocket};
use crate::clock;
use crate::config::{Datapath, RelayConfig};
use crate::error_chain::ErrorChain;
use crate::model::{
    Counts, FailedBackends, Frontend, FrontendStatus, Mode, NoPacketPlane, Phase, Placement, PlacementReason,
    PlaneKind, PlanesState, Problem, Rule,
};

/// Between two looks at the kernel's list of connections, which may be long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The packet plane, as far as there is one.
#[derive(Debug)]
enum Packet {
    /// There is none.
    Off(NoPacketPlane),
    /// It belongs to another agent until that one has handed over. Frontends that it may serve.
    Predecessors(BTreeMap<Frontend, Arc<Rule>>),
    /// It belongs to this agent.
    On(PacketPlane),
}

/// The packet plane and the relay.
#[derive(Debug)]
pub struct Planes {
    packet: Packet,
    relay: ProxyPlane,
    /// Why a frontend is relayed.
    reasons: BTreeMap<Frontend, PlacementReason>,
    held_ports: HeldPorts,
    /// When connections of an agent before this one were seen last.
    looked: Option<Instant>,
}

impl Planes {
    /// The relay alone, until [`Planes::start`]. `is_successor`: another agent still serves.
    pub fn new(relay: ProxyPlane, datapath: Datapath, is_successor: bool) -> Self {
        let packet = match packet_plane_off(datapath) {
            Some(why) => Packet::Off(why),
            None if is_successor => Packet::Predecessors(BTreeMap::new()),
            None => Packet::Off(NoPacketPlane::NotStarted),
        };
        Self { packet, relay, reasons: BTreeMap::new(), held_ports: HeldPorts::default(), looked: None }
    }

    /// Adds the packet plane, or remembers why there is none.
    pub fn start(&mut self, packet: Result<PacketPlane, PacketError>) {
        self.packet = match packet {
            Ok(plane) => Packet::On(plane),
            Err(error) => Packet::Off(NoPacketPlane::Failed { error: ErrorChain(&error).to_string() }),
        };
    }

    /// Changes limits and time-outs.
    pub fn set_config(&mut self, config: RelayConfig) {
        self.relay.set_config(config);
        if let Packet::On(plane) = &mut self.packet {
            plane.set_drain_timeout(config.drain_timeout);
        }
    }

    /// The relay.
    pub fn relay(&mut self) -> &mut ProxyPlane {
        &mut self.relay
    }

    /// The packet plane, if this agent has one.
    pub fn packet(&self) -> Option<&PacketPlane> {
        match &self.packet {
            Packet::On(plane) => Some(plane),
            Packet::Off(_) | Packet::Predecessors(_) => None,
        }
    }

    /// The states of backends, as far as the packet plane knows them.
    pub fn backend_states(&self) -> BackendStates {
        self.packet().map(PacketPlane::backend_states).unwrap_or_default()
    }

    /// What both planes have counted.
    pub fn counting(&self) -> Counting {
        let (packet, relay) = (self.packet().map(PacketPlane::counting), self.relay.counting());
        Counting::new(move || {
            let packet = packet.as_ref().map(|packet| packet()).transpose()?.unwrap_or_default();
            let (counters, shared) = relay.counters();
            Ok(Counts { relay: counters, shared, limits: relay.limits(), ..packet })
        })
    }

    /// Changes no programs at links any more, as a successor takes over.
    pub fn stop_attaching(&self) {
        self.packet().inspect(|plane| plane.stop_attaching());
    }

    /// The successor has not taken over.
    pub fn resume_attaching(&self) {
        self.packet().inspect(|plane| plane.resume_attaching());
    }

    /// The locks of the packet plane, for a successor.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn locks(&self) -> io::Result<LinkLocks> {
        self.packet().map_or(Ok(LinkLocks::new()), PacketPlane::locks)
    }

    /// The relay's sockets, for a successor.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn sockets(&self) -> io::Result<Vec<RelaySocket>> {
        self.relay.sockets()
    }

    /// A successor serves now. The relay's connections go on until they end, and the packet
    /// plane belongs to the successor.
    pub fn hand_over(&mut self) {
        self.relay.hand_over();
        self.held_ports.clear();
        self.packet = Packet::Off(NoPacketPlane::HandedOver);
    }

    /// Cuts all open connections, and ends all drains.
    pub fn abort(&mut self) {
        self.relay.abort();
        if let Packet::On(plane) = &self.packet {
            plane.abort();
        }
    }

    /// Takes the packet plane off all links.
    ///
    /// # Errors
    /// A pin can't be removed, or the kernel does not answer.
    pub async fn detach(&mut self) -> Result<(), PacketError> {
        match &mut self.packet {
            Packet::On(plane) => plane.detach().await,
            _ => Ok(()),
        }
    }

    /// Serves `frontend` by the packet plane, if that can.
    async fn try_packet(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), Refused> {
        let relayed = |why| Err(Refused::Relayed(why));
        if let Packet::Off(why) = &self.packet {
            return relayed(PlacementReason::NoPacketPlane(why.clone()));
        }
        if let Some(feature) = relay_feature(rule) {
            if let Packet::On(plane) = &self.packet {
                plane.forget(&frontend);
            }
            return relayed(PlacementReason::NeedsRelay(feature));
        }
        let is_relayed = self.relay.has(&frontend);
        match &mut self.packet {
            Packet::On(plane) => {
                // An own listener is there if the predecessor did not serve this frontend after all.
                if !is_relayed && !plane.has(&frontend) && !self.relay.listens(&frontend) {
                    self.relay.check_free(frontend).await.map_err(Refused::InUse)?;
                }
                if rule.backends.is_empty() && self.relay.listens(&frontend) {
                    self.relay.stand_beside(frontend, rule).await;
                }
                let served = plane.upsert(frontend, rule, is_relayed).await;
                served.map_err(|refusal| Refused::Relayed(refusal.into()))?;
                self.held_ports.release(&frontend);
                self.relay.stand_beside(frontend, rule).await;
                Ok(())
            }
            // If the predecessor relays a frontend, it gave its sockets.
            Packet::Predecessors(known) if !self.relay.inherits(&frontend) => {
                known.insert(frontend, Arc::clone(rule));
                self.relay.stand_beside(frontend, rule).await;
                Ok(())
            }
            Packet::Predecessors(_) | Packet::Off(_) => relayed(PlacementReason::Predecessor),
        }
    }
}

/// The packet plane does not serve a frontend.
enum Refused {
    /// Another program has the port, so no plane can serve.
    InUse(DataPlaneError),
    /// The relay may serve.
    Relayed(PlacementReason),
}

impl DataPlane for Planes {
    fn advance(&mut self) {
        let Packet::On(plane) = &self.packet else { return };
        let shared = plane.sharing_with_relay();
        if shared.is_empty() {
            return;
        }
        let relayed = self.relay.observe();
        let ended: Vec<&Frontend> =
            shared.iter().filter(|frontend| !relayed.contains_key(frontend)).collect();
        if ended.is_empty() || self.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return;
        }
        // An agent that has handed over may still relay some.
        match kernel_connections::local_addresses() {
            Ok(open) => {
                let is_open =
                    |frontend: &Frontend| open.contains(&SocketAddr::new(frontend.vip, frontend.port.get()));
                let (left, ended): (Vec<&Frontend>, Vec<&Frontend>) =
                    ended.into_iter().partition(|frontend| is_open(frontend));
                ended.into_iter().for_each(|frontend| plane.take_all(frontend));
                self.looked = (!left.is_empty()).then(clock::now);
            }
            Err(error) => {
                let error = ErrorChain(&error);
                tracing::warn!(%error, "cannot read which connections are open; packets of old ones go to the kernel");
                self.looked = Some(clock::now());
            }
        }
    }

    fn observe(&mut self) -> BTreeMap<Frontend, FrontendStatus> {
        let mut all = self.relay.observe();
        for (frontend, status) in &mut all {
            // The relay's own reason says more than why there is a relay.
            if status.placement.why.is_none() {
                status.placement.why = self.reasons.get(frontend).cloned();
            }
        }
        match &self.packet {
            Packet::On(plane) => {
                for (frontend, status) in &mut all {
                    status.is_misplaced = plane.is_due(frontend);
                }
                for (frontend, status) in plane.observe() {
                    // If both planes have a frontend, the one that serves counts; the other one drains.
                    if status.phase == Phase::Serving || !all.contains_key(&frontend) {
                        all.insert(frontend, status);
                    }
                }
            }
            Packet::Predecessors(known) => {
                all.extend(known.iter().map(|(frontend, rule)| {
                    let placement = Placement {
                        plane: PlaneKind::Packet,
                        mode: Some(Mode::default()),
                        why: Some(PlacementReason::Predecessor),
                    };
                    let status = FrontendStatus::relayed(Arc::clone(rule), Phase::Serving);
                    (*frontend, FrontendStatus { placement, ..status })
                }));
            }
            Packet::Off(_) => {}
        }
        for (frontend, status) in &mut all {
            status.other_clients = self.relay.other_clients(frontend);
        }
        all
    }

    async fn upsert(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), DataPlaneError> {
        match self.try_packet(frontend, rule).await {
            Ok(()) => {
                self.reasons.remove(&frontend);
                Ok(())
            }
            Err(Refused::InUse(error)) => Err(error),
            Err(Refused::Relayed(why)) => {
                self.held_ports.release(&frontend);
                self.relay.upsert(frontend, rule).await?;
                self.reasons.insert(frontend, why);
                if let Packet::On(plane) = &self.packet {
                    plane.give_away(&frontend);
                }
                Ok(())
            }
        }
    }

    fn remove(&mut self, frontend: &Frontend) {
        self.held_ports.release(frontend);
        self.relay.remove(frontend);
        self.reasons.remove(frontend);
        match &mut self.packet {
            Packet::On(plane) => plane.remove(frontend),
            Packet::Predecessors(known) => drop(known.remove(frontend)),
            Packet::Off(_) => {}
        }
    }

    async fn keep_ports(&mut self, own: &BTreeSet<Frontend>) {
        let Packet::On(plane) = &self.packet else { return };
        for frontend in self.relay.worth_another_try() {
            self.held_ports.release(&frontend);
            self.relay.listen_again(&frontend).await;
        }
        // The relay's listeners hold the ports that they have.
        let is_free = |frontend: &&Frontend| {
            plane.has(frontend) && !self.relay.has(frontend) && !self.relay.listens(frontend)
        };
        self.held_ports.set(&own.iter().filter(is_free).copied().collect());
    }

    fn leave_packets_alone(&mut self) -> bool {
        self.relay.leave_packets_alone()
    }

    fn failed_backends(&mut self) -> FailedBackends {
        let mut all = self.relay.failed_backends();
        // If both planes have a frontend, only one of them serves it.
        all.extend(self.packet().map(PacketPlane::failed_backends).unwrap_or_default());
        all
    }

    fn unready_links(&self) -> BTreeSet<String> {
        self.packet().map(PacketPlane::unready_links).unwrap_or_default()
    }

    fn problems(&self) -> Vec<Problem> {
        let mut all = self.relay.problems();
        all.extend(self.packet().map(PacketPlane::problems).unwrap_or_default());
        all
    }

    fn describe(&self) -> PlanesState {
        match &self.packet {
            Packet::On(plane) => PlanesState {
                links: plane.links(),
                links_without_header: plane.links_without_header(),
                no_packet_plane: None,
            },
            Packet::Off(why) => PlanesState { no_packet_plane: Some(why.clone()), ..PlanesState::default() },
            Packet::Predecessors(_) => PlanesState::default(),
        }
    }
}
