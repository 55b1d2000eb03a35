// SPDX-License-Identifier: Apache-2.0
//! All planes as one: each frontend goes to the first that can serve it, and
//! moves from one to another without a gap.
//!
//! ```text
//!   rule --needs a relay?--no--> packet plane --can't?--> relay
//!
//!   relay to packet:  packets of new connections first, the old ones stay the relay's until they end
//!   packet to relay:  the relay listens first; then the packet plane takes known flows only, until they end
//! ```
//!
//! While another agent is still in charge (see `handover`), the packet plane is
//! that one's: what is in its maps counts as served, and nothing is written.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::ladder::{is_off, needs_relay};
use super::packet::{LinkLocks, PacketError, PacketPlane};
use super::proxy::ProxyPlane;
use super::{BackendStates, DataPlane, DataPlaneError};
use crate::config::Datapath;
use crate::model::{Frontend, FrontendStatus, Mode, Phase, Placement, PlaneKind, PlanesState, Rule};

/// The packet plane, as far as it is there.
#[derive(Debug)]
enum Packet {
    /// Not wanted, or not possible: why.
    Off(String),
    /// Another agent's, until it has handed over. Frontends that it may serve.
    Anothers(BTreeMap<Frontend, Arc<Rule>>),
    /// Ours.
    On(PacketPlane),
}

/// The packet plane and the relay.
#[derive(Debug)]
pub struct Planes {
    packet: Packet,
    relay: ProxyPlane,
    /// Why a frontend is relayed.
    reasons: BTreeMap<Frontend, String>,
}

impl Planes {
    /// With a relay only, until [`Planes::start`]. `is_successor`: another agent
    /// serves still.
    pub fn new(relay: ProxyPlane, datapath: Datapath, is_successor: bool) -> Self {
        let packet = match is_off(datapath) {
            Some(why) => Packet::Off(why),
            None if is_successor => Packet::Anothers(BTreeMap::new()),
            None => Packet::Off("the packet plane has not been started yet".to_owned()),
        };
        Self { packet, relay, reasons: BTreeMap::new() }
    }

    /// The packet plane is there from now on, or why it is not.
    pub fn start(&mut self, packet: Result<PacketPlane, String>) {
        self.packet = match packet {
            Ok(plane) => Packet::On(plane),
            Err(why) => Packet::Off(why),
        };
    }

    /// The relay.
    pub fn relay(&mut self) -> &mut ProxyPlane {
        &mut self.relay
    }

    /// The packet plane, if it is there.
    pub fn packet(&self) -> Option<&PacketPlane> {
        match &self.packet {
            Packet::On(plane) => Some(plane),
            Packet::Off(_) | Packet::Anothers(_) => None,
        }
    }

    /// What is known of backends.
    pub fn backend_states(&self) -> BackendStates {
        self.packet().map(PacketPlane::backend_states).unwrap_or_default()
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
    pub fn sockets(&self) -> io::Result<Vec<(Frontend, OwnedFd)>> {
        self.relay.sockets()
    }

    /// A successor has all: the relay's connections go on until they end, and the
    /// packet plane is not ours any more.
    pub fn hand_over(&mut self) {
        self.relay.hand_over();
        self.packet = Packet::Off("handed over".to_owned());
    }

    /// Cuts all that is open.
    pub fn abort(&mut self) {
        self.relay.abort();
        if let Packet::On(plane) = &self.packet {
            plane.abort();
        }
    }

    /// Takes the packet plane off all links.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn detach(&self) -> Result<(), PacketError> {
        self.packet().map_or(Ok(()), PacketPlane::detach)
    }

    /// By the packet plane if that can; else, why not.
    async fn try_packet(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), Refused> {
        if let Packet::Off(why) = &self.packet {
            return Err(Refused::Other(why.clone()));
        }
        if let Some(why) = needs_relay(rule) {
            return Err(Refused::Other(why));
        }
        let is_relayed = self.relay.has(&frontend);
        match &mut self.packet {
            Packet::On(plane) => {
                if !is_relayed && !plane.has(&frontend) {
                    self.relay.check_free(frontend).await.map_err(Refused::InUse)?;
                }
                plane
                    .upsert(frontend, rule, is_relayed)
                    .await
                    .map_err(|refusal| Refused::Other(refusal.to_string()))?;
                self.relay.give_away(&frontend);
                Ok(())
            }
            // What the other one relays is told by its sockets.
            Packet::Anothers(known) if !self.relay.inherits(&frontend) => {
                known.insert(frontend, Arc::clone(rule));
                Ok(())
            }
            Packet::Anothers(_) | Packet::Off(_) => Err(Refused::Other("as the agent before".to_owned())),
        }
    }
}

/// Why the packet plane does not serve.
enum Refused {
    /// Another program has the port: no plane can.
    InUse(DataPlaneError),
    /// The relay may.
    Other(String),
}

impl DataPlane for Planes {
    fn observe(&mut self) -> BTreeMap<Frontend, FrontendStatus> {
        let mut all = self.relay.observe();
        for (frontend, status) in &mut all {
            // What the relay itself says of a frontend tells more.
            if let Some(why) = self.reasons.get(frontend)
                && status.placement.why.is_empty()
            {
                status.placement.why.clone_from(why);
            }
        }
        match &self.packet {
            Packet::On(plane) => {
                for (frontend, (status, waits_for_relay)) in plane.observe() {
                    if waits_for_relay && !all.contains_key(&frontend) {
                        plane.take_all(&frontend);
                    }
                    // Of two, the one that serves counts; the other one ends.
                    if status.phase == Phase::Serving || !all.contains_key(&frontend) {
                        all.insert(frontend, status);
                    }
                }
            }
            Packet::Anothers(known) => {
                all.extend(known.iter().map(|(frontend, rule)| {
                    let placement = Placement {
                        plane: PlaneKind::Packet,
                        mode: Some(Mode::default()),
                        why: "by the agent before".to_owned(),
                    };
                    let status = FrontendStatus { rule: Arc::clone(rule), phase: Phase::Serving, placement };
                    (*frontend, status)
                }));
            }
            Packet::Off(_) => {}
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
            Err(Refused::Other(why)) => {
                self.relay.upsert(frontend, rule).await?;
                self.reasons.insert(frontend, why);
                if let Packet::On(plane) = &self.packet {
                    plane.give_away(&frontend);
                }
                Ok(())
            }
        }
    }

    fn describe(&self) -> PlanesState {
        match &self.packet {
            Packet::On(plane) => PlanesState { links: plane.links(), no_packet_plane: None },
            Packet::Off(why) => PlanesState { links: Vec::new(), no_packet_plane: Some(why.clone()) },
            Packet::Anothers(_) => PlanesState::default(),
        }
    }

    fn remove(&mut self, frontend: &Frontend) {
        self.relay.remove(frontend);
        self.reasons.remove(frontend);
        match &mut self.packet {
            Packet::On(plane) => plane.remove(frontend),
            Packet::Anothers(known) => drop(known.remove(frontend)),
            Packet::Off(_) => {}
        }
    }
}
