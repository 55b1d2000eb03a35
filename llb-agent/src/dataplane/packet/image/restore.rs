// SPDX-License-Identifier: Apache-2.0
//! The image, read back from the maps: after a restart, and after a write that failed, when
//! it is not known what the maps hold. What belongs to no frontend is left over from writes
//! that were not finished; it is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use llb_common::address::Address;
use llb_common::backend::BackendEntry;
use llb_common::frontend::{DSR, FrontendEntry, FrontendKey, MaglevTable, MemberKey, SourceRangeKey, TCP};

use super::gate::Gate;
use super::ids::{Chunks, Places};
use super::known::{Known, Shares};
use super::map_image::MapImage;
use super::write::Write;
use crate::model::{Backend, Frontend, Mode, Port, Protocol};

/// What the maps hold.
#[derive(Debug, Default)]
pub(in super::super) struct Restored {
    pub(in super::super) frontends: Vec<(FrontendKey, FrontendEntry)>,
    pub(in super::super) vips: Vec<Address>,
    /// All places of the array, free ones too: these keep the id that was there last.
    pub(in super::super) backends: Vec<BackendEntry>,
    pub(in super::super) members: Vec<MemberKey>,
    pub(in super::super) ranges: Vec<(SourceRangeKey, u8)>,
}

/// Backends by frontend.
type Backends = BTreeMap<Frontend, BTreeMap<Backend, BackendEntry>>;

impl MapImage {
    /// The image of what the maps hold, and the writes that remove what is left over, and add the VIPs that an
    /// agent without that map has not written. Rules and the ids at rest are taken from this image, as the maps do
    /// not tell them. `slots` reads a selection table.
    ///
    /// # Errors
    /// A table can't be read.
    pub(in super::super) fn read_back(
        &self,
        restored: Restored,
        slots: impl Fn(MaglevTable) -> io::Result<Vec<u32>>,
    ) -> io::Result<(Self, Vec<Write>)> {
        let Restored { frontends, vips, backends, members, ranges } = restored;
        let next_frontend = frontends.iter().map(|(_, entry)| entry.id + 1).max().unwrap_or(1);
        let (backends, mut free): (Vec<_>, Vec<_>) = backends.into_iter().partition(|entry| entry.state != 0);
        let mut of_frontend = by_frontend(backends);

        let mut known = BTreeMap::new();
        for (key, entry) in frontends {
            let Some(frontend) = frontend_of(key.vip.into(), key.port.number(), key.protocol) else {
                continue;
            };
            let before = self.frontends.get(&frontend).filter(|before| before.entry.id == entry.id);
            let shares = match before {
                Some(before) if before.entry.table == entry.table => before.shares.clone(),
                _ => Shares::ReadBack(slots(entry.table)?),
            };
            let read_back = Known {
                entry,
                rule: before.and_then(|before| before.rule.clone()),
                mode: if entry.flags & DSR != 0 { Mode::Dsr } else { Mode::Nat },
                gate: Gate::of(&entry),
                backends: of_frontend.remove(&frontend).unwrap_or_default(),
                shares,
                members: BTreeSet::new(),
            };
            known.insert(frontend, read_back);
        }

        let mut leftovers = vip_writes(&known, vips);
        let stray: Vec<BackendEntry> = of_frontend.into_values().flat_map(BTreeMap::into_values).collect();
        leftovers.extend(stray.iter().map(|entry| Write::free_backend(entry.id)));
        free.extend(stray);
        give_members(&mut known, members, &mut leftovers);
        let services: BTreeSet<u32> = known.values().map(|known| known.entry.service).collect();
        let mut by_service: BTreeMap<u32, BTreeMap<SourceRangeKey, u8>> = BTreeMap::new();
        for (key, admits) in ranges {
            if services.contains(&key.service) {
                by_service.entry(key.service).or_default().insert(key, admits);
            } else {
                leftovers.push(Write::RemoveSourceRange(key));
            }
        }

        let used = known.values().flat_map(|known| known.backends.values()).map(|entry| entry.id);
        let places = Places::new(self.limits.backends, used, free.into_iter().map(|entry| entry.id));
        let tables = known.values().flat_map(|known| [known.entry.table, known.entry.previous]);
        let mut chunks = Chunks::new(self.limits.chunks, tables);
        chunks.rest_as(&self.chunks);
        let mut names = self.services.clone();
        names.keep(&services);
        let image = Self {
            limits: self.limits,
            frontends: known,
            ranges: by_service,
            places,
            chunks,
            services: names,
            next_frontend: next_frontend.max(self.next_frontend),
        };
        Ok((image, leftovers))
    }
}

/// The writes after which `vips` are those of the frontends.
fn vip_writes(known: &BTreeMap<Frontend, Known>, vips: Vec<Address>) -> Vec<Write> {
    let wanted: BTreeSet<IpAddr> = known.keys().map(|frontend| frontend.vip).collect();
    let found: BTreeSet<IpAddr> = vips.into_iter().map(IpAddr::from).collect();
    let gone = found.difference(&wanted).map(|vip| Write::RemoveVip((*vip).into()));
    let missing = wanted.difference(&found).map(|vip| Write::Vip((*vip).into()));
    gone.chain(missing).collect()
}

fn by_frontend(backends: Vec<BackendEntry>) -> Backends {
    let mut of_frontend = Backends::new();
    for entry in backends {
        let Some(frontend) = frontend_of(entry.vip.into(), entry.vip_port.number(), entry.protocol) else {
            continue;
        };
        let address = SocketAddr::new(IpAddr::from(entry.address), entry.port.number());
        of_frontend.entry(frontend).or_default().insert(Backend { address }, entry);
    }
    of_frontend
}

fn give_members(known: &mut BTreeMap<Frontend, Known>, members: Vec<MemberKey>, leftovers: &mut Vec<Write>) {
    let mut by_id: BTreeMap<u32, &mut Known> =
        known.values_mut().map(|known| (known.entry.id, known)).collect();
    for member in members {
        match by_id.get_mut(&member.frontend) {
            Some(known) => drop(known.members.insert(member)),
            None => leftovers.push(Write::RemoveMember(member)),
        }
    }
}

fn frontend_of(vip: IpAddr, port: u16, protocol: u8) -> Option<Frontend> {
    let protocol = if protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
    Some(Frontend { vip, port: Port::new(port.into())?, protocol })
}
