// SPDX-License-Identifier: Apache-2.0
//! The image as a whole: what it holds, and how frontends are closed and removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use llb_common::backend::{ACTIVE, BackendEntry, BackendId, DRAINING};
use llb_common::frontend::SourceRangeKey;
use llb_common::time::Tick;

use super::entries::members_of;
use super::gate::Gate;
use super::ids::{Chunks, Places, Services};
use super::known::Known;
use super::next_hop::NextHop;
use super::write::{Write, key_of};
use crate::model::{Backend, Frontend, Mode, Port, Protocol, Rule};

/// How many entries the image may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Limits {
    pub(in super::super) frontends: u32,
    pub(in super::super) backends: u32,
    pub(in super::super) chunks: u32,
}

/// What the maps hold.
#[derive(Debug)]
pub(in super::super) struct MapImage {
    pub(super) limits: Limits,
    pub(super) frontends: BTreeMap<Frontend, Known>,
    /// By [`FrontendEntry::service`](llb_common::frontend::FrontendEntry::service).
    pub(super) ranges: BTreeMap<u32, BTreeMap<SourceRangeKey, u8>>,
    pub(super) places: Places,
    pub(super) chunks: Chunks,
    pub(super) services: Services,
    pub(super) next_frontend: u32,
}

/// What the image says about one frontend.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Served<'a> {
    pub(in super::super) frontend: &'a Frontend,
    /// `None`: not known, because the maps were read back.
    pub(in super::super) rule: Option<&'a Arc<Rule>>,
    pub(in super::super) mode: Mode,
    pub(in super::super) gate: Gate,
}

impl MapImage {
    /// The image of empty maps.
    pub(in super::super) fn empty(limits: Limits) -> Self {
        Self {
            limits,
            frontends: BTreeMap::new(),
            ranges: BTreeMap::new(),
            places: Places::new(limits.backends, [], []),
            chunks: Chunks::new(limits.chunks, []),
            services: Services::default(),
            next_frontend: 1,
        }
    }

    /// All frontends in the maps, in order.
    pub(in super::super) fn frontends(&self) -> impl Iterator<Item = Served<'_>> {
        self.frontends.iter().map(|(frontend, known)| Served {
            frontend,
            rule: known.rule.as_ref(),
            mode: known.mode,
            gate: known.gate,
        })
    }

    /// Whether `frontend` is in the maps.
    pub(in super::super) fn has(&self, frontend: &Frontend) -> bool {
        self.frontends.contains_key(frontend)
    }

    /// Whether a frontend of this VIP is in the maps.
    pub(super) fn has_vip(&self, vip: IpAddr) -> bool {
        let first = Frontend { vip, port: Port::MIN, protocol: Protocol::Tcp };
        self.frontends.range(first..).next().is_some_and(|(frontend, _)| frontend.vip == vip)
    }

    /// Which packets `frontend` takes; `None` if it is not in the maps.
    pub(in super::super) fn gate(&self, frontend: &Frontend) -> Option<Gate> {
        self.frontends.get(frontend).map(|known| known.gate)
    }

    /// The backends of a frontend as they are in the map.
    pub(in super::super) fn backends(
        &self,
        frontend: &Frontend,
    ) -> impl Iterator<Item = (&Backend, &BackendEntry)> {
        self.frontends.get(frontend).into_iter().flat_map(|known| &known.backends)
    }

    /// The first backend of a frontend at this address, as it is in the map.
    pub(in super::super) fn backend_at(&self, frontend: &Frontend, address: IpAddr) -> Option<&BackendEntry> {
        let first = Backend { address: SocketAddr::new(address, 0) };
        let (backend, entry) = self.frontends.get(frontend)?.backends.range(first..).next()?;
        (backend.address.ip() == address).then_some(entry)
    }

    /// The backends that their frontend's rule has, as they are in the map, each with its frontend and that one's
    /// mode. Frontends whose rule is not known are left out.
    pub(in super::super) fn in_rules(
        &self,
    ) -> impl Iterator<Item = (&Frontend, Mode, &Backend, &BackendEntry)> {
        let known =
            self.frontends.iter().filter_map(|(name, known)| Some((name, known, known.rule.as_ref()?)));
        known.flat_map(|(name, known, rule)| {
            let backends = known.backends.iter().filter(|(backend, _)| rule.backends.contains_key(backend));
            backends.map(move |(backend, entry)| (name, known.mode, backend, entry))
        })
    }

    /// The addresses of all backends, each once.
    pub(in super::super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let backends = self.frontends.values().flat_map(|known| known.backends.keys());
        backends.map(|backend| backend.address.ip()).collect()
    }

    /// How many frontends, backends and chunks are in use. Chunks that only rest are not.
    pub(in super::super) fn in_use(&self) -> [u32; 3] {
        [self.frontends.len() as u32, self.places.used(), self.chunks.used() - self.chunks.resting()]
    }

    /// The last way to each backend's address. It has no MAC address if all backends there are lost.
    pub(in super::super) fn last_hops(&self) -> BTreeMap<IpAddr, NextHop> {
        let mut hops: BTreeMap<IpAddr, NextHop> = BTreeMap::new();
        for (backend, entry) in self.frontends.values().flat_map(|known| &known.backends) {
            let Some(hop) = NextHop::of(entry) else { continue };
            let known = hops.entry(backend.address.ip()).or_insert(hop);
            if known.mac.is_none() {
                *known = hop;
            }
        }
        hops
    }

    /// Whether clients of `frontend` are sent to this Node in mode DSR, or were until it was lost.
    pub(in super::super) fn has_clients(&self, frontend: &Frontend, node: IpAddr) -> bool {
        let known = self.frontends.get(frontend);
        let Some(known) = known.filter(|known| known.mode == Mode::Dsr && known.gate != Gate::KnownFlowsOnly)
        else {
            return false;
        };
        known.backends.iter().any(|(backend, entry)| {
            let is_lost = entry.state == DRAINING && entry.mac.is_unknown();
            backend.address.ip() == node && (entry.state == ACTIVE || is_lost)
        })
    }

    /// The address of this machine that each backend sees in mode NAT.
    pub(in super::super) fn sources(&self) -> impl Iterator<Item = IpAddr> {
        let entries = self.frontends.values().flat_map(|known| known.backends.values());
        entries.filter(|entry| !entry.snat.is_unspecified()).map(|entry| entry.snat.into())
    }

    /// All backends of all frontends, including those that only have flows left.
    pub(in super::super) fn all_backends(&self) -> impl Iterator<Item = (&Frontend, &Backend, BackendId)> {
        self.frontends.iter().flat_map(|(frontend, known)| {
            known.backends.iter().map(move |(backend, entry)| (frontend, backend, entry.id))
        })
    }

    /// Whether the rule of a frontend has this backend. True while the rule is not known.
    pub(in super::super) fn is_in_rule(&self, frontend: &Frontend, backend: &Backend) -> bool {
        let rule = self.frontends.get(frontend).and_then(|known| known.rule.as_ref());
        rule.is_none_or(|rule| rule.backends.contains_key(backend))
    }

    /// How many backends and how many chunks are in use.
    pub(in super::super) fn fill(&self) -> (u32, u32) {
        (self.places.used(), self.chunks.used())
    }

    /// Which packets of `frontend` are taken.
    pub(in super::super) fn gate_of(&self, frontend: &Frontend) -> Option<Gate> {
        self.frontends.get(frontend).map(|known| known.gate)
    }

    /// What to write so that `frontend` takes the packets that `gate` lets through.
    pub(in super::super) fn set_gate(&mut self, frontend: &Frontend, gate: Gate) -> Vec<Write> {
        let Some(known) = self.frontends.get_mut(frontend) else { return Vec::new() };
        known.gate = gate;
        known.entry.flags = known.entry.flags & !Gate::FLAGS | gate.flags();
        vec![Write::Frontend(key_of(frontend), known.entry)]
    }

    /// Makes the rule of `frontend` unknown: the maps may follow it in part only.
    pub(in super::super) fn forget_rule(&mut self, frontend: &Frontend) {
        if let Some(known) = self.frontends.get_mut(frontend) {
            known.rule = None;
        }
    }

    /// What to write so that `frontend` is gone, with its backends and its table.
    pub(in super::super) fn remove(&mut self, frontend: &Frontend, now: Tick) -> Vec<Write> {
        let Some(known) = self.frontends.remove(frontend) else { return Vec::new() };
        let mut writes = vec![Write::RemoveFrontend(key_of(frontend))];
        if !self.has_vip(frontend.vip) {
            writes.push(Write::RemoveVip(frontend.vip.into()));
        }
        writes.extend(known.members.into_iter().map(Write::RemoveMember));
        for entry in known.backends.into_values() {
            self.places.free(entry.id);
            writes.push(Write::free_backend(entry.id));
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

    /// What to write so that former backends without flows are gone.
    pub(in super::super) fn forget_idle(&mut self, has_flows: impl Fn(BackendId) -> bool) -> Vec<Write> {
        let mut gone = Vec::new();
        let mut writes = Vec::new();
        for known in self.frontends.values_mut() {
            let Some(rule) = &known.rule else { continue };
            let before = known.backends.len();
            known.backends.retain(|backend, entry| {
                let stays = rule.backends.contains_key(backend) || has_flows(entry.id);
                if !stays {
                    gone.push(entry.id);
                }
                stays
            });
            if known.backends.len() < before {
                let members = members_of(&known.entry, &known.backends);
                writes.extend(known.member_writes(&members));
                known.members = members.into_keys().collect();
            }
        }
        for id in gone {
            self.places.free(id);
            writes.push(Write::free_backend(id));
        }
        writes
    }
}
