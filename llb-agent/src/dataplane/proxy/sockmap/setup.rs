// SPDX-License-Identifier: Apache-2.0
//! Decides at the start whether sockmap is used, and holds what all connections
//! share then.

use std::fmt;
use std::fs;
use std::sync::Arc;

use prometheus_client::registry::Registry;

use super::error::SockmapError;
use super::kernels::Names;
use super::maps::Maps;
use super::metrics::Metrics;
use super::watch::Watch;
use super::{kernels, self_test};
use crate::config::SockmapConfig;
use crate::error_chain::ErrorChain;
use crate::kernel::{self, Cap};

/// The kernel's part, shared by all connections.
pub(in super::super) struct Sockmap {
    pub(super) maps: Arc<Maps>,
    pub(super) watch: Watch,
    pub(super) metrics: Metrics,
    /// Small reads after which the kernel takes a connection.
    pub(super) after_reads: u32,
}

impl Sockmap {
    /// Starts sockmap if there is a configuration, and logs whether it is used.
    /// Without it the relay moves all bytes itself, so an error stops nothing.
    ///
    /// # Errors
    /// The reason why the kernel can't move bytes.
    pub(in super::super) fn start_if_wanted(
        config: Option<SockmapConfig>,
        registry: &mut Registry,
    ) -> Result<Self, SockmapError> {
        let config = config.ok_or(SockmapError::NotWanted)?;
        let after_reads = config.after_reads;
        Self::start(config, registry)
            .inspect(|_| tracing::info!(after_reads, "the kernel moves the bytes of connections (sockmap)"))
            .inspect_err(|error| {
                tracing::warn!(error = %ErrorChain(error), "no sockmap; bytes are moved in user space");
            })
    }

    /// Loads the programs and tries them on loopback.
    fn start(config: SockmapConfig, registry: &mut Registry) -> Result<Self, SockmapError> {
        if let Some(trouble) = known_trouble() {
            return Err(SockmapError::KnownTrouble(trouble));
        }
        // Without this check the error would be the verifier's whole log.
        let missing = kernel::missing_capabilities(&[Cap::Bpf, Cap::Perfmon]);
        if !missing.is_empty() {
            let missing: Vec<String> = missing.iter().map(Cap::to_string).collect();
            return Err(SockmapError::MissingRights(missing.join(", ")));
        }
        let (maps, events) = Maps::load(config.max_pairs.get())?;
        let maps = Arc::new(maps);
        self_test::run(&maps)?;
        let watch = Watch::start(events).map_err(SockmapError::Watch)?;
        let metrics = Metrics::register(registry, Arc::downgrade(&maps));
        Ok(Self { maps, watch, metrics, after_reads: config.after_reads })
    }
}

/// Why the running kernel must not be used.
fn known_trouble() -> Option<String> {
    let uname = rustix::system::uname();
    let (release, version) = (uname.release().to_string_lossy(), uname.version().to_string_lossy());
    let signature = fs::read_to_string("/proc/version_signature").unwrap_or_default();
    kernels::known_trouble(Names { release: &release, version: &version, signature: &signature })
}

impl fmt::Debug for Sockmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockmap").field("after_reads", &self.after_reads).finish_non_exhaustive()
    }
}
