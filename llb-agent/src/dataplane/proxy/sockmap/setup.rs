// SPDX-License-Identifier: Apache-2.0
//! Decides at the start whether sockmap is used, and holds what all connections
//! share then.

use std::fmt;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use prometheus_client::registry::Registry;

use super::error::SockmapError;
use super::kernels::Names;
use super::mapped::{Mapped, Marked};
use super::maps::Maps;
use super::metrics::Metrics;
use super::watch::Watch;
use super::{kernels, self_test};
use crate::config::{SockmapConfig, SockmapJoin};
use crate::error_chain::ErrorChain;
use crate::kernel::{self, Cap};

/// The kernel's part, shared by all connections.
pub(in super::super) struct Sockmap {
    pub(super) maps: Arc<Maps>,
    pub(super) watch: Watch,
    pub(super) metrics: Metrics,
    /// Small reads after which the kernel takes a connection.
    pub(super) after_reads: u32,
    join: SockmapJoin,
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
        if config.join == SockmapJoin::SockOps {
            maps.register_marked()?;
        }
        self_test::run(&maps, config.join)?;
        let watch = Watch::start(events).map_err(SockmapError::Watch)?;
        let metrics = Metrics::register(registry, Arc::downgrade(&maps));
        Ok(Self { maps, watch, metrics, after_reads: config.after_reads, join: config.join })
    }

    /// The connections of this listener are put into the maps when they are established, if the configuration
    /// says so.
    pub(in super::super) fn mark_listener(&self, listener: &impl AsRawFd) {
        if self.join == SockmapJoin::SockOps
            && let Err(error) = self.maps.mark(listener)
        {
            let error = ErrorChain(&error);
            tracing::warn!(%error, "cannot mark a listener; the kernel gets its connections by calls");
        }
    }

    /// Likewise for a socket that is about to connect.
    pub(in super::super) fn mark(&self, socket: &(impl AsFd + AsRawFd)) -> Option<Marked> {
        if self.join == SockmapJoin::Calls {
            return None;
        }
        Marked::new(&self.maps, socket)
            .inspect_err(|error| tracing::debug!(error = %ErrorChain(error), "cannot mark a socket"))
            .ok()
    }

    /// The opposite of [`Sockmap::mark_listener`]. Returns whether connections that nobody has accepted yet may be
    /// in the maps.
    pub(in super::super) fn unmark(&self, listeners: &[impl AsRawFd]) -> bool {
        if self.join == SockmapJoin::SockOps {
            listeners.iter().for_each(|listener| self.maps.unmark(listener));
        }
        self.join == SockmapJoin::SockOps
    }

    /// An accepted connection that is in the maps already. To be called for each one before anything else.
    pub(in super::super) fn adopt(&self, socket: impl AsFd) -> Option<Mapped> {
        (self.join == SockmapJoin::SockOps).then(|| Mapped::adopt(&self.maps, socket))?
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
