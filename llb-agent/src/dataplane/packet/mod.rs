// SPDX-License-Identifier: Apache-2.0
//! The packet plane: eBPF programs at the links, which forward by maps that are
//! filled here.
//!
//! ```text
//!   rule --> PacketPlane --> reach: routes, neighbours        reach.rs
//!                |              |
//!                `--> book: what is in the maps, ids, tables  book/          pure
//!                       `--> writes --> maps                  maps.rs, table.rs
//!
//!   start:  links -> hooks -> object, maps, program           links.rs, loader.rs, attach.rs
//!           maps of another size or layout                    migrate.rs
//!   keeper: neighbours fresh, flows swept, drains ended       keeper.rs, sweep.rs
//!   answers: ICMP errors about packets that were dropped      answers.rs
//!
//!   <bpf_dir>/v3/<link>/{xdp,tc_ingress}        pinned: keeps the program at the link
//!   <bpf_dir>/v3/<link>/{LINK,LINK_COUNTERS}    pinned: its switch and its counts
//!   <bpf_dir>/v3/shared_between_links/<MAP>     pinned: all others
//! ```
//!
//! Invariants: what is pinned survives the agent, so a killed agent's programs
//! go on forwarding, and the next agent takes maps and links over without a
//! gap. One process holds a link, and the maps: the locks are on the folders, and
//! end with the process. Packets see a change of a frontend by one write.

mod answers;
mod attach;
mod book;
mod error;
mod flow_table;
mod keeper;
mod links;
mod loader;
#[cfg(feature = "ebpf-log")]
mod log;
mod maps;
mod metrics;
mod migrate;
mod pins;
mod plane;
mod reach;
mod ring;
mod sweep;
mod table;
mod tcx_link;
mod trace;

pub use error::PacketError;
pub use loader::{LinkLocks, has_object};
pub use pins::{detach, provide_bpffs};
pub use plane::{PacketPlane, Refusal};
pub use trace::trace;

use std::path::PathBuf;

use crate::config::{Datapath, PacketConfig};

/// What the plane is made for.
#[derive(Clone, Debug)]
pub struct PacketSetup {
    /// The links that get programs, by name.
    pub links: Vec<String>,
    /// Where they are pinned.
    pub bpf_dir: PathBuf,
    /// Which hooks are tried.
    pub datapath: Datapath,
    /// Limits.
    pub config: PacketConfig,
    /// What a frontend that ends gives its flows.
    pub drain_timeout: std::time::Duration,
}
