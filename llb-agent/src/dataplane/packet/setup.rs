// SPDX-License-Identifier: Apache-2.0
//! What the packet plane is started with.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::turn::Turn;
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
    /// Which links may get a program when they are made again.
    pub permission: LinkPermission,
    /// Whether programs may be attached.
    pub turn: Turn,
}

/// Says whether the link with a number is this agent's.
#[derive(Clone)]
pub struct LinkPermission(Arc<dyn Fn(u32) -> bool + Send + Sync>);

impl LinkPermission {
    /// Asks `is_own` for each link.
    pub fn new(is_own: impl Fn(u32) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_own))
    }

    pub(super) fn is_own(&self, ifindex: u32) -> bool {
        (self.0)(ifindex)
    }
}

impl fmt::Debug for LinkPermission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkPermission")
    }
}
