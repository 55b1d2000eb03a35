// SPDX-License-Identifier: Apache-2.0
//! What is in the maps of the packet plane, and what must be written into them
//! so that a frontend is served by its rule. Pure: it gives [`Write`]s, in the
//! order in which they may be seen by packets, and somebody else carries them
//! out.
//!
//! ```text
//!   rule, next hops --> backends: id, state, entry --> shares --> Maglev table in free chunks
//!                                      |                                |
//!                                      `---------> frontend entry <-----'   one write switches over
//! ```
//!
//! Ids outlive the agent with the flows that know them: after a restart the
//! book is read back from the maps ([`Restored`]).

mod compile;
mod ids;
mod restore;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use llb_common::address::{Address, Mac, WirePort};
use llb_common::backend::{BackendEntry, BackendId};
use llb_common::frontend::{
    Chunk, FrontendEntry, FrontendKey, KNOWN_FLOWS_ONLY, MemberKey, OPENINGS_ONLY, SourceRangeKey, TCP, UDP,
};
use llb_common::time::Tick;

use crate::model::{Backend, Frontend, Mode, Protocol, Rule, ServiceName, Weight};
use ids::{Chunks, Places, Services};
pub(super) use restore::Restored;

/// One change of the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// The place of a backend begins to count anew.
    ResetTraffic(BackendId),
    /// A backend, at the index of its id.
    Backend(BackendEntry),
    /// A part of a Maglev table.
    Chunk(u32, Box<Chunk>),
    /// Which backend a host has for a frontend.
    Member(MemberKey, BackendId),
    /// Clients that may come (1), or of those that may not (0).
    SourceRange(SourceRangeKey, u8),
    /// From here on packets see all of the above.
    Frontend(FrontendKey, FrontendEntry),
    /// Packets to it are the kernel's again.
    RemoveFrontend(FrontendKey),
    /// See [`Write::Member`].
    RemoveMember(MemberKey),
    /// See [`Write::SourceRange`].
    RemoveSourceRange(SourceRangeKey),
}

/// How the packets of a backend leave this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NextHop {
    /// The link.
    pub(super) ifindex: u32,
    /// MAC of that link.
    pub(super) source_mac: Mac,
    /// MAC of the backend, or of the router before it; unknown: it can't be reached now.
    pub(super) mac: Option<Mac>,
    /// Address of this machine that the backend sees in mode NAT.
    pub(super) source: IpAddr,
    /// Bytes of the largest IP packet.
    pub(super) mtu: u16,
}

/// How a frontend takes traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Gate {
    /// All.
    #[default]
    Open,
    /// No TCP connection that is not known and does not begin now: the relay has them.
    OpeningsOnly,
    /// Known flows only: it ends.
    KnownFlowsOnly,
}

/// All flags of gates.
const GATES: u32 = OPENINGS_ONLY | KNOWN_FLOWS_ONLY;

impl Gate {
    fn flags(self) -> u32 {
        match self {
            Self::Open => 0,
            Self::OpeningsOnly => OPENINGS_ONLY,
            Self::KnownFlowsOnly => KNOWN_FLOWS_ONLY,
        }
    }

    fn of(entry: &FrontendEntry) -> Self {
        match entry.flags & GATES {
            0 => Self::Open,
            OPENINGS_ONLY => Self::OpeningsOnly,
            _ => Self::KnownFlowsOnly,
        }
    }
}

/// A limit of the maps is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    /// `--max-backends`.
    #[error("the packet plane has all the {most} backends it has room for (--max-backends)")]
    Backends {
        /// How many.
        most: u32,
    },
    /// Chunks.
    #[error("the packet plane has no room for another selection table ({most} KiB of four are in use)")]
    Tables {
        /// How many chunks of 4 KiB.
        most: u32,
    },
}

/// What each map holds.
#[derive(Debug)]
pub(super) struct Book {
    frontends: BTreeMap<Frontend, Known>,
    /// By [`FrontendEntry::service`].
    ranges: BTreeMap<u32, BTreeMap<SourceRangeKey, u8>>,
    places: Places,
    chunks: Chunks,
    services: Services,
    next_frontend: u32,
}

/// A frontend in the maps.
#[derive(Debug, Default)]
struct Known {
    entry: FrontendEntry,
    rule: Option<Arc<Rule>>,
    mode: Mode,
    gate: Gate,
    /// Those of the rule, and those that were and may still have flows.
    backends: BTreeMap<Backend, BackendEntry>,
    /// Who is in the table; after a restart only the table is known.
    shares: Shares,
    members: BTreeSet<MemberKey>,
}

#[derive(Debug)]
enum Shares {
    Known(Vec<(BackendId, Weight)>),
    Slots(Vec<u32>),
}

impl Default for Shares {
    fn default() -> Self {
        Self::Known(Vec::new())
    }
}

impl Book {
    /// Served, in this order: by key, its rule (none: from before a restart),
    /// mode, whether it drains.
    pub(super) fn frontends(&self) -> impl Iterator<Item = (&Frontend, Option<&Arc<Rule>>, Mode, Gate)> {
        self.frontends.iter().map(|(frontend, known)| (frontend, known.rule.as_ref(), known.mode, known.gate))
    }

    /// The backends of a frontend as they are in the map.
    pub(super) fn backends(&self, frontend: &Frontend) -> impl Iterator<Item = (&Backend, &BackendEntry)> {
        self.frontends.get(frontend).into_iter().flat_map(|known| &known.backends)
    }

    /// All addresses of backends, each once.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let backends = self.frontends.values().flat_map(|known| known.backends.keys());
        backends.map(|backend| backend.address.ip()).collect()
    }

    /// The frontend that has this backend, if the id is still in use.
    pub(super) fn owners(&self) -> BTreeMap<BackendId, (&Frontend, &Backend)> {
        let all = self.frontends.iter().flat_map(|(frontend, known)| {
            known.backends.iter().map(move |(backend, entry)| (entry.id, (frontend, backend)))
        });
        all.collect()
    }

    /// For whom a frontend is served; unknown right after a restart.
    pub(super) fn service(&self, frontend: &Frontend) -> Option<&ServiceName> {
        Some(&self.frontends.get(frontend)?.rule.as_ref()?.service)
    }

    /// The number that flow keys have for a frontend.
    pub(super) fn id(&self, frontend: &Frontend) -> Option<u32> {
        self.frontends.get(frontend).map(|known| known.entry.id)
    }

    /// Places of backends, and chunks, that are in use.
    pub(super) fn fill(&self) -> (u32, usize) {
        (self.places.used(), self.chunks.used())
    }

    /// Lets less, or all, traffic through.
    pub(super) fn set_gate(&mut self, frontend: &Frontend, gate: Gate) -> Vec<Write> {
        let Some(known) = self.frontends.get_mut(frontend) else { return Vec::new() };
        known.gate = gate;
        known.entry.flags = known.entry.flags & !GATES | gate.flags();
        vec![Write::Frontend(key_of(frontend), known.entry)]
    }

    /// Takes the frontend out of the maps, with all that it has.
    pub(super) fn remove(&mut self, frontend: &Frontend, now: Tick) -> Vec<Write> {
        let Some(known) = self.frontends.remove(frontend) else { return Vec::new() };
        let mut writes = vec![Write::RemoveFrontend(key_of(frontend))];
        writes.extend(known.members.into_iter().map(Write::RemoveMember));
        for entry in known.backends.into_values() {
            writes.push(self.forget(entry.id));
        }
        self.chunks.free(known.entry.table, now);
        self.chunks.free(known.entry.previous, now);
        let service = known.entry.service;
        if !self.frontends.values().any(|other| other.entry.service == service) {
            let ranges = self.ranges.remove(&service).unwrap_or_default();
            writes.extend(ranges.into_keys().map(Write::RemoveSourceRange));
            self.services.forget(service);
        }
        writes
    }

    /// Takes backends out that the rule does not have any more and that no flow
    /// knows.
    pub(super) fn forget_idle(&mut self, has_flows: impl Fn(BackendId) -> bool) -> Vec<Write> {
        let mut gone = Vec::new();
        for known in self.frontends.values_mut() {
            let Some(rule) = &known.rule else { continue };
            known.backends.retain(|backend, entry| {
                let stays = rule.backends.contains_key(backend) || has_flows(entry.id);
                if !stays {
                    gone.push(entry.id);
                }
                stays
            });
        }
        gone.into_iter().map(|id| self.forget(id)).collect()
    }

    /// The id stays in the map, so that flows of it are known for what they are.
    fn forget(&mut self, id: BackendId) -> Write {
        self.places.free(id);
        Write::Backend(BackendEntry { id, ..BackendEntry::default() })
    }
}

/// The key of a frontend in the map.
pub(super) fn key_of(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(
        Address::from(frontend.vip),
        WirePort::new(frontend.port.get()),
        number(frontend.protocol),
    )
}

/// As IANA has it.
pub(super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}
