// SPDX-License-Identifier: Apache-2.0
//! Reads what the programs have counted, every second and at each scrape. It holds the lock of the plane's state only while it
//! lists the backends. After that it reads the maps, many entries with each system call.

use std::io;
use std::sync::Arc;

use llb_common::backend::BackendId;
use llb_common::counters::Traffic;
use llb_common::maps;

use super::maps::Maps;
use super::shared::Shared;
use crate::model::{Backend, Counted, Counter, Counts, Fill, Frontend, LinkCount};

/// Everything that was counted.
///
/// # Errors
/// A map can't be read.
pub(super) fn counts(shared: &Shared) -> io::Result<Counts> {
    let link = |(link, counted): (String, llb_common::counters::LinkCounters)| LinkCount {
        link,
        packets: counted.packets,
        bytes: counted.bytes,
    };
    let maps = Arc::clone(&shared.state().maps);
    Ok(Counts {
        packet: backends(shared)?,
        links: shared.counters().into_iter().map(link).collect(),
        reasons: maps.reasons()?,
        maps: fill(shared),
        ..Counts::default()
    })
}

/// The counters of all backends.
fn backends(shared: &Shared) -> io::Result<Vec<Counter>> {
    let (listed, maps) = listed(shared);
    let places = listed.iter().map(|(id, _)| id.index() as usize + 1).max().unwrap_or(0);
    let traffic = maps.traffic(places)?;
    let counted = listed.into_iter().filter_map(|(id, counter)| {
        let Traffic { packets, bytes, reply_packets, reply_bytes, flows } =
            *traffic.get(id.index() as usize)?;
        let counted = Counted {
            new: flows,
            bytes_in: bytes,
            bytes_out: reply_bytes,
            packets_in: packets,
            packets_out: reply_packets,
            ..counter.counted
        };
        Some(Counter { counted, ..counter })
    });
    Ok(counted.collect())
}

/// The backends, with what the agent itself knows about them.
fn listed(shared: &Shared) -> (Vec<(BackendId, Counter)>, Arc<Maps>) {
    let state = shared.state();
    let counter = |(frontend, backend, id): (&Frontend, &Backend, BackendId)| {
        let counter = Counter {
            number: u64::from(id.0),
            frontend: *frontend,
            backend: Some(*backend),
            counted: Counted { failures: state.failures.count(id), ..Counted::default() },
            active: state.flows.open.get(&id).copied().unwrap_or(0).into(),
            connect_time: None,
            round_trip: None,
        };
        (id, counter)
    };
    (state.image.all_backends().map(counter).collect(), Arc::clone(&state.maps))
}

/// How full the maps with a limit are.
pub(super) fn fill(shared: &Shared) -> Vec<Fill> {
    let state = shared.state();
    let (backends, chunks) = state.image.fill();
    let limit = |map| shared.capacities.of(map);
    let used = [
        (maps::FLOWS, state.flows.fill.0, state.maps.flows.words().places()),
        (maps::PENDING_FLOWS, state.flows.fill.1, limit(maps::PENDING_FLOWS)),
        (maps::BACKENDS, backends, limit(maps::BACKENDS)),
        (maps::MAGLEV, chunks, limit(maps::MAGLEV)),
        (maps::FRONTENDS, state.image.frontends().count() as u32, limit(maps::FRONTENDS)),
    ];
    let fill = |(map, used, most): (maps::Map, u32, u32)| Fill {
        name: map.name,
        used: used.into(),
        most: most.into(),
    };
    used.into_iter().map(fill).collect()
}
