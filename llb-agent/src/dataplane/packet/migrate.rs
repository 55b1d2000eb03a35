// SPDX-License-Identifier: Apache-2.0
//! Takes over the contents of a predecessor's maps that have another layout or size: these
//! maps are set aside, and their entries are copied into the new ones. So no flow is lost with
//! a new version or another `--max-flows`.
//!
//! ```text
//!   old programs, old maps ---.               .--- new programs, new maps
//!      set aside: renamed      `-- copy -----'  attach; copy what was added meanwhile; forget
//! ```
//!
//! It relies on a rule for layouts: a value may grow at its end, by fields in which zero means
//! what was true before; a key never changes. Entries whose key has another size are not
//! copied.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use llb_common::flow_table::{self, VALUE_BYTES};
use llb_common::maps::{self as names, Map as Name};

use super::clsact;
use super::error::PacketError;
use super::flow_table::{FlowTable, is_flow_table};
use super::link_facts;
use super::map_sizes::{Capacities, shared_maps, sizes_of};
use super::pins::{LAYOUT, PinFolder, SHARED, entries, folders, is_layout, link_name, remove};
use super::table::RawMap;

/// Put before the name of a map that is set aside. No map has a colon in its name.
const ASIDE: &str = "old:";

/// Counters and short-lived entries, which are not worth a copy.
const NOT_COPIED: [Name; 6] =
    [names::TRAFFIC, names::REASONS, names::FRAGMENTS, names::TRACE, names::NOTICES, names::EARLY];

/// A predecessor's maps that can't be used as they are.
#[derive(Debug, Default)]
pub(super) struct Old {
    maps: BTreeMap<&'static str, MapData>,
    pins: Vec<PathBuf>,
    layouts: Vec<PathBuf>,
}

impl Old {
    /// Finds them in `shared` and in the folders of other layouts.
    pub(super) fn set_aside(
        bpf_dir: &Path,
        shared: &PinFolder,
        capacities: Capacities,
    ) -> Result<Self, PacketError> {
        let mut old = Self::default();
        let layouts = folders(bpf_dir)?;
        let others = layouts.into_iter().filter(|path| is_layout(path) && !path.ends_with(LAYOUT));
        old.layouts = others.collect();
        let other_layout = old.layouts.iter().map(|layout| layout.join(SHARED)).find(|path| has_maps(path));
        for map in shared_maps() {
            let (pin, aside) = (shared.pin(map.name), shared.pin(&format!("{ASIDE}{}", map.name)));
            if pin.exists() && !aside.exists() && !is_usable(&pin, map, capacities)? {
                fs::rename(&pin, &aside).map_err(|error| PacketError::pin("rename", &pin, error))?;
            }
            let from = match &other_layout {
                _ if aside.exists() => aside.clone(),
                Some(folder) if !pin.exists() => folder.join(map.name),
                _ => continue,
            };
            if from.exists() && !NOT_COPIED.contains(&map) {
                let data =
                    MapData::from_pin(&from).map_err(|error| PacketError::pin("open", &from, error))?;
                old.maps.insert(map.name, data);
            }
            if from == aside {
                old.pins.push(aside);
            }
        }
        if !old.layouts.is_empty() {
            adopt_links(&old.layouts, bpf_dir)?;
        }
        Ok(old)
    }

    /// Copies all entries. To be called before the new programs are attached.
    pub(super) fn copy(&self, ebpf: &Ebpf) -> Result<(), PacketError> {
        self.copy_to(ebpf, false)
    }

    /// Copies the entries that the old programs have added since.
    pub(super) fn copy_late(&self, ebpf: &Ebpf) -> Result<(), PacketError> {
        self.copy_to(ebpf, true)
    }

    /// Removes the old maps.
    pub(super) fn forget(self) -> Result<(), PacketError> {
        for pin in &self.pins {
            fs::remove_file(pin).map_err(|error| PacketError::pin("remove", pin, error))?;
        }
        for layout in &self.layouts {
            for folder in folders(layout)? {
                let name = folder.file_name().unwrap_or_default();
                // Without its marks, nobody would find the filter of a link that llb has no more.
                if !layout.with_file_name(LAYOUT).join(name).exists() {
                    clsact::detach(link_facts::index_of(&link_name(name)), &folder)?;
                }
                remove(&folder)?;
            }
            fs::remove_dir(layout).map_err(|error| PacketError::pin("remove", layout, error))?;
        }
        Ok(())
    }

    fn copy_to(&self, ebpf: &Ebpf, only_new: bool) -> Result<(), PacketError> {
        for (name, old) in &self.maps {
            let new = ebpf.map(name).and_then(inner).ok_or(PacketError::NotInObject { name })?;
            let copied = if is_table(name) {
                copy_flows(old, new)
            } else {
                copy(old, new, only_new && !has_all_keys(name))
            };
            copied.map_err(|error| PacketError::pin("copy the old map", Path::new(name), error))?;
        }
        Ok(())
    }
}

/// Moves the pins of programs and the marks of filters from other layouts here, so that they are replaced as any
/// predecessor's.
fn adopt_links(layouts: &[PathBuf], bpf_dir: &Path) -> Result<(), PacketError> {
    for folder in layouts.iter().map(|layout| folders(layout)).collect::<Result<Vec<_>, _>>()?.concat() {
        let Some(name) = folder.file_name().filter(|name| *name != SHARED) else { continue };
        let ours = bpf_dir.join(LAYOUT).join(name);
        for pin in entries(&folder)? {
            let is_program =
                ["xdp", "tc_ingress"].iter().chain(&clsact::MARKS).any(|name| pin.ends_with(name));
            let to = ours.join(pin.file_name().unwrap_or_default());
            if is_program && ours.exists() && !to.exists() {
                fs::rename(&pin, &to).map_err(|error| PacketError::pin("rename", &pin, error))?;
            }
        }
    }
    Ok(())
}

fn is_usable(pin: &Path, map: Name, capacities: Capacities) -> Result<bool, PacketError> {
    let failed = |error| PacketError::pin("open", pin, error);
    let info = MapData::from_pin(pin).map_err(failed)?.info().map_err(failed)?;
    let sizes = sizes_of(map);
    let has_sizes = sizes.is_none_or(|sizes| sizes == (info.key_size(), info.value_size()));
    Ok(has_sizes && info.max_entries() == capacities.of(map))
}

fn copy(old: &MapData, new: &MapData, only_new: bool) -> io::Result<()> {
    let (from, to) = (RawMap::of(old)?, RawMap::of(new)?);
    if from.key_bytes != to.key_bytes {
        return Ok(());
    }
    let room = new.info().map_err(io::Error::other)?.max_entries() as usize;
    let mut copied = 0;
    from.for_each_batch(|keys, values| {
        let count = (keys.len() / from.key_bytes).min(room.saturating_sub(copied));
        let mut grown = vec![0; count * to.value_bytes];
        let shared = from.value_bytes.min(to.value_bytes);
        for (new, old) in grown.chunks_exact_mut(to.value_bytes).zip(values.chunks_exact(from.value_bytes)) {
            new[..shared].copy_from_slice(&old[..shared]);
        }
        copied += count;
        let keys = &keys[..count * from.key_bytes];
        let result = if only_new { to.insert_new(keys, &grown) } else { to.insert_all(keys, &grown) };
        // The new map is smaller; entries that do not fit are lost.
        match result {
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(()),
            result => result,
        }
    })
}

/// Copies flows. Those that do not fit into a smaller table are lost.
fn copy_flows(old: &MapData, new: &MapData) -> io::Result<()> {
    type Key = [u8; size_of::<flow_table::Key>()];
    type Value = [u8; VALUE_BYTES];
    let to = FlowTable::<Key, Value>::new(new)?;
    let to = to.words();
    if is_flow_table(old)? {
        FlowTable::<Key, Value>::new(old)?.words().for_each(|key, value| {
            to.insert(&key, &value);
        });
        return Ok(());
    }
    // Earlier versions had a hash map of the kernel instead.
    let from = RawMap::of(old)?;
    if from.key_bytes != size_of::<Key>() || from.value_bytes > VALUE_BYTES {
        return Ok(());
    }
    from.for_each_batch(|keys, values| {
        for (key, value) in keys.as_chunks().0.iter().zip(values.chunks_exact(from.value_bytes)) {
            let mut grown = [0; VALUE_BYTES];
            grown[..value.len()].copy_from_slice(value);
            to.insert(key, &grown);
        }
        Ok(())
    })
}

/// Whether a map is a table of `llb_common::flow_table`.
fn is_table(name: &str) -> bool {
    [names::FLOWS, names::REPLIES].iter().any(|map| map.name == name)
}

/// Whether a map is an array, which always has all of its keys.
fn has_all_keys(name: &str) -> bool {
    [names::SETTINGS, names::MAGLEV, names::BACKENDS].iter().any(|map| map.name == name)
}

fn inner(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) => Some(data),
        _ => None,
    }
}

/// Whether maps of llb are pinned in `path`.
fn has_maps(path: &Path) -> bool {
    path.join(names::FRONTENDS.name).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_programs_and_marks_of_filters_come_from_another_layout() {
        let all = tempfile::tempdir().unwrap();
        let (old, new) = (all.path().join("v1"), all.path().join(LAYOUT));
        for folder in [old.join("eth0"), old.join("eth1"), old.join(SHARED), new.join("eth0")] {
            fs::create_dir_all(folder).unwrap();
        }
        for link in ["eth0", "eth1"] {
            ["xdp", "tc_ingress", "LINK"]
                .iter()
                .for_each(|pin| fs::write(old.join(link).join(pin), "").unwrap());
            clsact::MARKS.iter().for_each(|mark| fs::create_dir(old.join(link).join(mark)).unwrap());
        }
        adopt_links(std::slice::from_ref(&old), all.path()).unwrap();
        let names = |folder: &Path| {
            let mut names: Vec<String> = entries(folder)
                .unwrap()
                .iter()
                .map(|entry| entry.file_name().unwrap().to_string_lossy().into_owned())
                .collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&new.join("eth0")), ["clsact_filter", "clsact_qdisc", "tc_ingress", "xdp"]);
        assert_eq!(names(&old.join("eth0")), ["LINK"]);
        assert_eq!(names(&old.join("eth1")).len(), 5, "llb has that link no more");
    }
}
