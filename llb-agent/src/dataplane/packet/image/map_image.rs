// SPDX-License-Identifier: Apache-2.0
//! The image as a whole: what it holds, and how frontends close and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use llb_common::backend::{BackendEntry, BackendId};
use llb_common::frontend::SourceRangeKey;
use llb_common::time::Tick;

use super::gate::{GATES, Gate};
use super::ids::{Chunks, Places, Services};
use super::known::Known;
use super::write::{Write, key_of};
use crate::model::{Backend, Frontend, Mode, Rule, ServiceName};

/// What each map holds.
#[derive(Debug)]
pub(in super::super) struct MapImage {
    pub(super) frontends: BTreeMap<Frontend, Known>,
    /// By [`FrontendEntry::service`].
    pub(super) ranges: BTreeMap<u32, BTreeMap<SourceRangeKey, u8>>,
    pub(super) places: Places,
    pub(super) chunks: Chunks,
    pub(super) services: Services,
    pub(super) next_frontend: u32,
}

impl MapImage {
    /// Served, in this order: by key, its rule (none: from before a restart),
    /// mode, whether it drains.
    pub(in super::super) fn frontends(
        &self,
    ) -> impl Iterator<Item = (&Frontend, Option<&Arc<Rule>>, Mode, Gate)> {
        self.frontends.iter().map(|(frontend, known)| (frontend, known.rule.as_ref(), known.mode, known.gate))
    }

    /// The backends of a frontend as they are in the map.
    pub(in super::super) fn backends(
        &self,
        frontend: &Frontend,
    ) -> impl Iterator<Item = (&Backend, &BackendEntry)> {
        self.frontends.get(frontend).into_iter().flat_map(|known| &known.backends)
    }

    /// All addresses of backends, each once.
    pub(in super::super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let backends = self.frontends.values().flat_map(|known| known.backends.keys());
        backends.map(|backend| backend.address.ip()).collect()
    }

    /// The frontend that has this backend, if the id is still in use.
    pub(in super::super) fn owners(&self) -> BTreeMap<BackendId, (&Frontend, &Backend)> {
        let all = self.frontends.iter().flat_map(|(frontend, known)| {
            known.backends.iter().map(move |(backend, entry)| (entry.id, (frontend, backend)))
        });
        all.collect()
    }

    /// For whom a frontend is served; unknown right after a restart.
    pub(in super::super) fn service(&self, frontend: &Frontend) -> Option<&ServiceName> {
        Some(&self.frontends.get(frontend)?.rule.as_ref()?.service)
    }

    /// The number that flow keys have for a frontend.
    pub(in super::super) fn id(&self, frontend: &Frontend) -> Option<u32> {
        self.frontends.get(frontend).map(|known| known.entry.id)
    }

    /// Places of backends, and chunks, that are in use.
    pub(in super::super) fn fill(&self) -> (u32, usize) {
        (self.places.used(), self.chunks.used())
    }

    /// Lets less, or all, traffic through.
    pub(in super::super) fn set_gate(&mut self, frontend: &Frontend, gate: Gate) -> Vec<Write> {
        let Some(known) = self.frontends.get_mut(frontend) else { return Vec::new() };
        known.gate = gate;
        known.entry.flags = known.entry.flags & !GATES | gate.flags();
        vec![Write::Frontend(key_of(frontend), known.entry)]
    }

    /// Takes the frontend out of the maps, with all that it has.
    pub(in super::super) fn remove(&mut self, frontend: &Frontend, now: Tick) -> Vec<Write> {
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
    pub(in super::super) fn forget_idle(&mut self, has_flows: impl Fn(BackendId) -> bool) -> Vec<Write> {
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
