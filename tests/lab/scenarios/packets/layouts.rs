// SPDX-License-Identifier: Apache-2.0
//! Makes the pinned maps look like those of an older agent: in a folder of their own, with hash maps of the
//! kernel as flow tables, and with shorter values.
//!
//! A green test with them does not prove that an upgrade from a released version works: they only imitate one,
//! with today's flows.

use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use llb_common::conntrack::{ForwardEntry, ForwardKey, ReplyEntry};
use llb_common::maps;
use llb_tests::FlowLines;

const NOW: &str = "v4";
const BEFORE: &str = "v3";
/// Folder of the maps that all links share.
const SHARED: &str = "shared_between_links";

const KEY: usize = size_of::<ForwardKey>();
/// More flows than there are connections.
const MOST: u32 = 65_536;

/// Without the fields from `next_hop` on, which are then zero, which means unknown.
const OLD_FORWARD: usize = offset_of!(ForwardEntry, next_hop);
/// Without the padding.
const OLD_REPLY: usize = size_of::<ReplyEntry>() - 3;

/// The flow entries in today's layout.
pub(super) struct Flows {
    folder: PathBuf,
}

/// Makes what is pinned in `bpf_dir` look as if another version had pinned it. The programs that run keep their
/// maps.
pub(super) fn make_older(bpf_dir: &Path) -> Result<Flows> {
    fs::rename(bpf_dir.join(NOW), bpf_dir.join(BEFORE))?;
    let folder = bpf_dir.join(BEFORE).join(SHARED);
    replace::<{ size_of::<ForwardEntry>() }, OLD_FORWARD>(&folder.join(maps::FLOWS.name))?;
    replace::<{ size_of::<ReplyEntry>() }, OLD_REPLY>(&folder.join(maps::REPLIES.name))?;
    Ok(Flows { folder: bpf_dir.join(NOW).join(SHARED) })
}

impl Flows {
    /// Whether there is a flow entry with this client port.
    pub(super) fn have(&self, client_port: u16) -> Result<bool> {
        let lines = open(&self.folder.join(maps::FLOWS.name))?;
        let mut has_it = false;
        lines.table::<ForwardKey, ForwardEntry>().for_each(|key, _| {
            has_it |= key.client_port.number() == client_port;
        });
        Ok(has_it)
    }
}

fn replace<const VALUE: usize, const SHORTER: usize>(pin: &Path) -> Result<()> {
    let lines = open(pin)?;
    let mut entries: Vec<([u8; KEY], [u8; VALUE])> = vec![];
    lines.table().for_each(|key, value| entries.push((key, value)));
    let mut new = HashMap::<MapData, [u8; KEY], [u8; SHORTER]>::create(MOST, 0)?;
    for (key, value) in entries {
        new.insert(&key, &<[u8; SHORTER]>::try_from(&value[..SHORTER])?, 0)?;
    }
    fs::remove_file(pin)?;
    new.pin(pin).with_context(|| format!("cannot pin {}", pin.display()))
}

fn open(pin: &Path) -> Result<FlowLines> {
    let data = MapData::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
    FlowLines::read(&Map::Array(data))
}
