//! What an agent of another version would have left: its maps have a folder of
//! their own, and values that end earlier.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use llb_common::conntrack::{ForwardEntry, ForwardKey, ReplyEntry, ReplyKey};
use llb_common::maps;

const NOW: &str = "v2";
const BEFORE: &str = "v1";
/// Of the maps that all links share.
const SHARED: &str = "shared_between_links";

/// Without `way`, which is zero then, and unknown.
const OLD_FORWARD: usize = size_of::<ForwardEntry>() - 4;
/// Without padding.
const OLD_REPLY: usize = size_of::<ReplyEntry>() - 3;

/// The flows of today's layout.
pub(super) struct Flows {
    folder: PathBuf,
}

/// Makes what is pinned in `bpf_dir` look as if another version had. The
/// programs go on with the maps that they have.
pub(super) fn make_older(bpf_dir: &Path) -> Result<Flows> {
    fs::rename(bpf_dir.join(NOW), bpf_dir.join(BEFORE))?;
    let folder = bpf_dir.join(BEFORE).join(SHARED);
    const FORWARD_KEY: usize = size_of::<ForwardKey>();
    const REPLY_KEY: usize = size_of::<ReplyKey>();
    shorten::<FORWARD_KEY, { size_of::<ForwardEntry>() }, OLD_FORWARD>(&folder.join(maps::FLOWS.name))?;
    shorten::<REPLY_KEY, { size_of::<ReplyEntry>() }, OLD_REPLY>(&folder.join(maps::REPLIES.name))?;
    Ok(Flows { folder: bpf_dir.join(NOW).join(SHARED) })
}

impl Flows {
    /// Whether there is one of a client's port.
    pub(super) fn have(&self, client_port: u16) -> Result<bool> {
        let map = open::<{ size_of::<ForwardKey>() }, { size_of::<ForwardEntry>() }>(
            &self.folder.join(maps::FLOWS.name),
        )?;
        let keys = map.keys().collect::<Result<Vec<_>, _>>()?;
        let of_client = |key: &[u8; 24]| {
            bytemuck::pod_read_unaligned::<ForwardKey>(key).client_port.number() == client_port
        };
        Ok(keys.iter().any(of_client))
    }
}

fn shorten<const KEY: usize, const VALUE: usize, const SHORTER: usize>(pin: &Path) -> Result<()> {
    let old = open::<KEY, VALUE>(pin)?;
    let most = MapData::from_pin(pin)?.info()?.max_entries();
    let mut new = HashMap::<MapData, [u8; KEY], [u8; SHORTER]>::create(most, 0)?;
    for entry in old.iter() {
        let (key, value) = entry?;
        new.insert(&key, &<[u8; SHORTER]>::try_from(&value[..SHORTER])?, 0)?;
    }
    fs::remove_file(pin)?;
    new.pin(pin).with_context(|| format!("cannot pin {}", pin.display()))
}

fn open<const KEY: usize, const VALUE: usize>(
    pin: &Path,
) -> Result<HashMap<MapData, [u8; KEY], [u8; VALUE]>> {
    let data = MapData::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
    Ok(Map::HashMap(data).try_into()?)
}
