// SPDX-License-Identifier: Apache-2.0
//! Loads the embedded object for each link: the link's own maps, the maps that all links
//! share, and a program at the best hook that takes it. `pins.rs` says where all of this is
//! pinned.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfLoader};
use llb_common::counters::LINK_COUNTERS_MAP;
use llb_common::maps;
use llb_common::settings::LinkSettings;

use super::attach::{self, attach, end_others};
use super::error::PacketError;
use super::hooks::Ladder;
use super::link_facts::LinkFacts;
use super::map_sizes::{Capacities, OF_A_LINK, shared_maps};
use super::maps::Maps;
use super::migrate::Old;
use super::packet_link::{PacketLink, tell};
use super::pins::{PinFolder, SHARED};
use super::setup::PacketSetup;
use super::table::{Table, data};
use crate::error_chain::ErrorChain;
use crate::model::{Hook, HookReason, HookRefusal};

/// The eBPF object, if `cargo xtask build-ebpf` was run before the agent was built.
#[cfg(packet_object)]
pub(super) const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("LLB_PACKET_OBJECT")));
#[cfg(not(packet_object))]
pub(super) const OBJECT: Option<&[u8]> = None;

/// The locks on the links' folders of pins, by the link's name, and the one on the shared maps.
pub type LinkLocks = BTreeMap<String, File>;

/// Whether this agent was built with eBPF programs.
pub const fn has_object() -> bool {
    OBJECT.is_some()
}

/// All that was loaded.
pub(super) struct Loaded {
    pub(super) links: Vec<PacketLink>,
    pub(super) maps: Maps,
    pub(super) notices: RingBuf<MapData>,
    pub(super) early: RingBuf<MapData>,
    pub(super) shared: PinFolder,
}

/// Puts a program on each of these links.
///
/// # Errors
/// A link takes no program. What was pinned before goes on as it was.
pub(super) fn load(
    setup: &PacketSetup,
    links: &[(LinkFacts, Ladder)],
    capacities: Capacities,
    locks: &mut LinkLocks,
) -> Result<Loaded, PacketError> {
    let object = OBJECT.ok_or(PacketError::NotBuilt)?;
    let folders = links.iter().map(|(link, ladder)| {
        let folder = PinFolder::open(&setup.bpf_dir, &link.name, locks.remove(&link.name))?;
        Ok((link, ladder, folder))
    });
    let folders: Vec<(&LinkFacts, &Ladder, PinFolder)> = folders.collect::<Result<_, PacketError>>()?;
    let shared = PinFolder::open(&setup.bpf_dir, SHARED, locks.remove(SHARED))?;
    let old = Old::set_aside(&setup.bpf_dir, &shared, capacities)?;
    let mut links = Vec::new();
    let mut first: Option<Ebpf> = None;
    for (link, ladder, folder) in folders {
        let mut ebpf = open(object, &link.name, capacities, &shared, &folder)?;
        if first.is_none() {
            old.copy(&ebpf)?;
        }
        let settings = settings_of(&mut ebpf, &folder)?;
        let placed = attach_best(&mut ebpf, setup, (link, ladder), &settings, &folder)?;
        #[cfg(feature = "ebpf-log")]
        super::log::follow(&mut ebpf, &link.name);
        links.push(packet_link(&mut ebpf, setup, link, placed, settings, folder)?);
        first.get_or_insert(ebpf);
    }
    let mut first = first.ok_or(PacketError::NotBuilt)?;
    old.copy_late(&first)?;
    let typed = Maps::new(|name| {
        let map = first.take_map(name).and_then(data);
        map.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the object has no map {name}")))
    });
    let typed = typed.map_err(|error| PacketError::pin("use the maps in", shared.path(), error))?;
    let mut ring = |name: &'static str| {
        let ring = first.take_map(name).and_then(|map| RingBuf::try_from(map).ok());
        ring.ok_or(PacketError::NotInObject { name })
    };
    let (notices, early) = (ring(maps::NOTICES.name)?, ring(maps::EARLY.name)?);
    old.forget()?;
    Ok(Loaded { links, maps: typed, notices, early, shared })
}

/// Puts a program on a link that was made anew, or another one on a link that has changed. It uses the shared maps
/// that are in use.
///
/// # Errors
/// The link takes no program.
pub(super) fn reload(
    setup: &PacketSetup,
    (facts, ladder): (&LinkFacts, &Ladder),
    capacities: Capacities,
    shared: &PinFolder,
    lock: Option<File>,
) -> Result<PacketLink, PacketError> {
    let object = OBJECT.ok_or(PacketError::NotBuilt)?;
    let folder = PinFolder::open(&setup.bpf_dir, &facts.name, lock)?;
    let mut ebpf = open(object, &facts.name, capacities, shared, &folder)?;
    let settings = settings_of(&mut ebpf, &folder)?;
    let placed = attach_best(&mut ebpf, setup, (facts, ladder), &settings, &folder)?;
    packet_link(&mut ebpf, setup, facts, placed, settings, folder)
}

/// Loads the object. Maps that are pinned already are used again.
fn open(
    object: &[u8],
    link: &str,
    capacities: Capacities,
    shared: &PinFolder,
    folder: &PinFolder,
) -> Result<Ebpf, PacketError> {
    let mut loader = EbpfLoader::new();
    loader.map_pin_path(LINK_COUNTERS_MAP, folder.pin(LINK_COUNTERS_MAP));
    for map in OF_A_LINK {
        loader.map_pin_path(map.name, folder.pin(map.name));
    }
    for map in shared_maps() {
        loader.map_max_entries(map.name, capacities.of(map)).map_pin_path(map.name, shared.pin(map.name));
    }
    loader.load(object).map_err(|error| PacketError::load(link, shared.path(), error))
}

/// Where a link's program is.
struct Placed {
    hook: Hook,
    why: HookReason,
    /// Why the driver keeps an XDP program of llb beside it.
    kept_xdp: Option<String>,
}

/// Puts a program at the best hook that takes it. The link's settings are filled before: packets of flows that were
/// taken over come at once, and the map may be a new one.
fn attach_best(
    ebpf: &mut Ebpf,
    setup: &PacketSetup,
    (link, ladder): (&LinkFacts, &Ladder),
    settings: &Table<u32, LinkSettings>,
    folder: &PinFolder,
) -> Result<Placed, PacketError> {
    let mut refused = Vec::new();
    let mut last = None;
    for &hook in ladder.hooks {
        let loaded = attach::load(ebpf, hook, link, folder);
        let Some(_turn) = setup.turn.take() else { return Err(PacketError::HandedOver) };
        tell(settings, link, setup.config.return_path)
            .map_err(|error| PacketError::pin("use", folder.pin(maps::LINK.name), error))?;
        if let Err(error) = loaded.and_then(|()| attach(ebpf, hook, link, &setup.config, folder)) {
            refused.push(HookRefusal { hook, error: ErrorChain(&error).to_string() });
            last = Some(error);
            continue;
        }
        let kept_xdp = match end_others(hook, link, &setup.config, folder) {
            Ok(()) => None,
            Err(PacketError::XdpKept { source, .. }) => Some(ErrorChain(&source).to_string()),
            Err(error) => return Err(error),
        };
        let why = HookReason { choice: ladder.choice.clone(), refused };
        return Ok(Placed { hook, why, kept_xdp });
    }
    Err(last.unwrap_or(PacketError::NotBuilt))
}

/// The map with the link's settings.
fn settings_of(ebpf: &mut Ebpf, folder: &PinFolder) -> Result<Table<u32, LinkSettings>, PacketError> {
    let map = ebpf.take_map(maps::LINK.name).and_then(data);
    let map = map.ok_or(PacketError::NotInObject { name: maps::LINK.name })?;
    Table::new(map).map_err(|error| PacketError::pin("use", folder.pin(maps::LINK.name), error))
}

fn packet_link(
    ebpf: &mut Ebpf,
    setup: &PacketSetup,
    link: &LinkFacts,
    Placed { hook, why, kept_xdp }: Placed,
    settings: Table<u32, LinkSettings>,
    folder: PinFolder,
) -> Result<PacketLink, PacketError> {
    let map = ebpf.take_map(LINK_COUNTERS_MAP).ok_or(PacketError::NotInObject { name: LINK_COUNTERS_MAP })?;
    let counters = PerCpuArray::try_from(map)
        .map_err(|error| PacketError::load(&link.name, &folder.pin(LINK_COUNTERS_MAP), error.into()))?;
    Ok(PacketLink {
        facts: link.clone(),
        hook,
        why,
        tried_with: None,
        refusal: None,
        is_followed: true,
        has_kept_xdp: kept_xdp.is_some(),
        kept_xdp,
        folder,
        return_path: setup.config.return_path,
        settings,
        counters,
    })
}
