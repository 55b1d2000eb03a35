// SPDX-License-Identifier: Apache-2.0
//! What the packet plane is started with.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Datapath, PacketConfig};

/// Links, folder and limits of the packet plane.
#[derive(Clone, Debug)]
pub struct PacketSetup {
    /// Names of the links that get programs.
    pub links: Vec<String>,
    /// The folder on a bpffs under which programs and maps are pinned.
    pub bpf_dir: PathBuf,
    /// Which hooks are tried.
    pub datapath: Datapath,
    /// Sizes of the maps, ports and modes.
    pub config: PacketConfig,
    /// How long the flows of a removed frontend may go on.
    pub drain_timeout: Duration,
}
