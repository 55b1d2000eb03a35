// SPDX-License-Identifier: Apache-2.0
//! Another way to move the bytes of an established pair of sockets: by the
//! kernel, from one to the other. Everything else stays the relay's; whatever
//! is not plain data brings the pair back to it.
//!
//! ```text
//!   relay in user space --- so many small reads (Turn) ---> kernel moves bytes
//!        ^                                                       |
//!        `-- FIN, error, no room at the other socket, bulk ------'
//!            after all that was redirected is written             carry.rs
//! ```
//!
//! | file | what |
//! |---|---|
//! | `carry.rs` | one connection, from its hand-over until it comes back |
//! | `pair.rs`, `mapped.rs`, `leave.rs`, `quiet.rs` | sockets in the maps, and out again, without a byte lost |
//! | `watch.rs` | who is woken by what |
//! | `maps.rs`, `btf.rs` | the loaded object; where the kernel keeps what it reads |
//! | `kernels.rs`, `self_test.rs` | whether this kernel is to be trusted |
//!
//! Invariants: bytes are in the hands of the kernel or of the relay, never of
//! both. Nothing is redirected that the other socket has no room for, so what
//! is between the sockets is bounded and never waits for a peer. A socket
//! leaves the maps only when its queues in them are empty. What was taken from
//! a socket and not redirected is noticed, and resets the connection.

mod btf;
mod carry;
mod kernels;
mod leave;
mod mapped;
mod maps;
mod metrics;
mod pair;
mod quiet;
mod self_test;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::sync::Arc;

use prometheus_client::registry::Registry;

pub(super) use carry::{Turn, carry};
pub(super) use mapped::Mapped;

use self::maps::Maps;
use self::metrics::Metrics;
use self::watch::Watch;
use crate::config::SockmapConfig;
use crate::kernel::{self, Cap};

/// The kernel's part, shared by all connections.
pub(super) struct Sockmap {
    maps: Arc<Maps>,
    watch: Watch,
    metrics: Metrics,
    /// Reads of the relay after which a connection is handed over.
    after_reads: u32,
}

/// Why the kernel can't move bytes.
#[derive(Debug, thiserror::Error)]
pub(super) enum SockmapError {
    #[error("it was not asked for")]
    NotWanted,
    #[error("this agent was built without eBPF programs; run cargo xtask build-ebpf, then build it again")]
    NotBuilt,
    #[error("{0}")]
    KnownTrouble(String),
    #[error("missing rights: {0}; run it as root, or grant them")]
    MissingRights(String),
    #[error("the kernel's type information can't be read ({})", btf::KERNEL_BTF)]
    NoBtf {
        #[source]
        source: io::Error,
    },
    #[error("this kernel has no {field}")]
    NoField { field: &'static str },
    #[error("{name} is missing in the eBPF object")]
    NotInObject { name: &'static str },
    #[error("the programs can't be loaded: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Load(#[from] aya::EbpfError),
    #[error("the programs can't be used: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Program(#[from] aya::programs::ProgramError),
    #[error("a map can't be used")]
    Map(#[from] aya::maps::MapError),
    #[error("a socket can't be used")]
    Socket(#[from] rustix::io::Errno),
    #[error("a socket has an error")]
    Lost(#[from] io::Error),
    #[error("bytes are missing")]
    Torn,
    #[error("a socket was not found in its map")]
    NoAnswer,
    #[error("the self-test failed: {0}")]
    SelfTest(String),
    #[error("pairs can't be watched")]
    Watch(#[source] io::Error),
}

impl Sockmap {
    /// Loads the programs and tries them on loopback.
    ///
    /// # Errors
    /// Why the relay has to move all bytes itself.
    pub(super) fn start(config: SockmapConfig, registry: &mut Registry) -> Result<Self, SockmapError> {
        if let Some(trouble) = kernels::known_trouble(&kernel::release()) {
            return Err(SockmapError::KnownTrouble(trouble));
        }
        let missing = kernel::missing_capabilities(&[Cap::Bpf, Cap::Perfmon]);
        if !missing.is_empty() {
            // The kernel would answer with all that its verifier thought until then.
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

impl std::fmt::Debug for Sockmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockmap").field("after_reads", &self.after_reads).finish_non_exhaustive()
    }
}
