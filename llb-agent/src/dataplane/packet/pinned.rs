// SPDX-License-Identifier: Apache-2.0
//! The pinned maps as subcommands find them, with or without a running agent.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aya::maps::MapData;
use llb_common::maps::Map;

use super::pins::{LAYOUT, SHARED};

/// The folder of this layout, if `map` is pinned there.
///
/// # Errors
/// The folder can't be read. A missing right must not look as if no agent had run.
pub(super) fn layout_with(bpf_dir: &Path, map: Map) -> anyhow::Result<Option<PathBuf>> {
    let layout = bpf_dir.join(LAYOUT);
    let is_there = layout.join(SHARED).join(map.name).try_exists();
    let is_there = is_there.with_context(|| format!("cannot read {}", bpf_dir.display()))?;
    Ok(is_there.then_some(layout))
}

/// A map that all links share.
///
/// # Errors
/// It is not there, or the kernel does not permit it.
pub(super) fn shared(layout: &Path, map: Map) -> anyhow::Result<MapData> {
    open(&layout.join(SHARED).join(map.name))
}

/// The map that is pinned there.
///
/// # Errors
/// There is none, or the kernel does not permit it.
pub(super) fn open(path: &Path) -> anyhow::Result<MapData> {
    MapData::from_pin(path).with_context(|| format!("cannot open the map {}", path.display()))
}

/// What to say if nothing is pinned.
pub fn nothing_pinned(bpf_dir: &Path) -> String {
    format!(
        "no packet plane is pinned in {}: is an agent running with --datapath auto, xdp or tc, and with that --bpf-dir?",
        bpf_dir.display()
    )
}
