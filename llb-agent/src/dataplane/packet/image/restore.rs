// SPDX-License-Identifier: Apache-2.0
//! The image after a restart: what the maps held, back as numbers in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use llb_common::backend::{BackendEntry, BackendId};
use llb_common::frontend::{DSR, FrontendEntry, FrontendKey, MemberKey, SourceRangeKey, TCP, Table};

use super::gate::Gate;
use super::ids::{Chunks, Places, Services};
use super::known::{Known, Shares};
use super::map_image::MapImage;
use crate::model::{Backend, Frontend, Mode, Port, Protocol};

/// What the maps hold.
#[derive(Debug, Default)]
pub(in super::super) struct Restored {
    pub(in super::super) frontends: Vec<(FrontendKey, FrontendEntry)>,
    /// Those in use; of the others, too, if they are known.
    pub(in super::super) backends: Vec<BackendEntry>,
    pub(in super::super) members: Vec<MemberKey>,
    pub(in super::super) ranges: Vec<(SourceRangeKey, u8)>,
}

impl MapImage {
    /// `slots` reads a table. A new box has an empty `restored`.
    pub(in super::super) fn new(
        (max_backends, max_chunks): (u32, u32),
        restored: Restored,
        slots: impl Fn(Table) -> Vec<u32>,
    ) -> Self {
        let Restored { frontends, backends, members, ranges } = restored;
        let tables = frontends.iter().flat_map(|(_, entry)| [entry.table, entry.previous]);
        let chunks = Chunks::new(max_chunks, tables.filter(|table| table.slots != 0));
        let next_frontend = frontends.iter().map(|(_, entry)| entry.id).max().unwrap_or(0) + 1;

        let mut of_frontend: BTreeMap<Frontend, BTreeMap<Backend, BackendEntry>> = BTreeMap::new();
        for entry in backends.into_iter().filter(|entry| entry.state != 0) {
            let Some(frontend) = frontend(entry.vip.into(), entry.vip_port.number(), entry.protocol) else {
                continue;
            };
            let address = SocketAddr::new(IpAddr::from(entry.address), entry.port.number());
            of_frontend.entry(frontend).or_default().insert(Backend { address }, entry);
        }
        let mut known = BTreeMap::new();
        for (key, entry) in frontends {
            let Some(frontend) = frontend(key.vip.into(), key.port.number(), key.protocol) else { continue };
            let members: BTreeSet<MemberKey> =
                members.iter().filter(|member| member.frontend == entry.id).copied().collect();
            let restored = Known {
                entry,
                rule: None,
                mode: if entry.flags & DSR != 0 { Mode::Dsr } else { Mode::Nat },
                gate: Gate::of(&entry),
                backends: of_frontend.remove(&frontend).unwrap_or_default(),
                shares: Shares::Slots(slots(entry.table)),
                members,
            };
            known.insert(frontend, restored);
        }
        let used = known.values().flat_map(|known| known.backends.values()).map(|entry| entry.id);
        let used: Vec<BackendId> = used.collect();
        let mut by_service: BTreeMap<u32, BTreeMap<SourceRangeKey, u8>> = BTreeMap::new();
        for (key, admits) in ranges {
            by_service.entry(key.service).or_default().insert(key, admits);
        }
        Self {
            frontends: known,
            ranges: by_service,
            places: Places::new(max_backends, used.into_iter()),
            chunks,
            services: Services::default(),
            next_frontend,
        }
    }
}

fn frontend(vip: IpAddr, port: u16, protocol: u8) -> Option<Frontend> {
    let protocol = if protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
    Some(Frontend { vip, port: Port::new(port.into())?, protocol })
}
