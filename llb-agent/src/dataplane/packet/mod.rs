// SPDX-License-Identifier: Apache-2.0
//! The packet plane: eBPF programs at the links, which forward by maps that are
//! filled here.
//!
//! ```text
//!   rule --> PacketPlane --> next hops: routes, neighbours    next_hops.rs
//!                |              |
//!                `--> image of the maps: ids, tables          image/          pure
//!                       `--> writes --> maps                  maps.rs, table.rs
//!
//!   start:  links -> hooks -> object, maps, program           hooks.rs, loader.rs, attach.rs
//!           maps of another size or layout                    migrate.rs
//!   upkeep: neighbours fresh, flows swept, drains ended       upkeep.rs, sweep.rs
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
mod clock;
mod drain;
mod error;
#[cfg(test)]
mod fake;
mod flow_table;
mod hooks;
pub mod image;
mod link_facts;
mod loader;
#[cfg(feature = "ebpf-log")]
mod log;
mod map_sizes;
mod map_store;
mod maps;
mod metrics;
mod migrate;
mod next_hops;
mod packet_link;
mod pins;
mod plane;
mod refusal;
mod ring;
mod settings;
mod setup;
mod shared;
#[cfg(test)]
mod simulation;
mod state;
mod sweep;
mod table;
mod trace;
mod upkeep;

pub use error::PacketError;
pub use loader::{LinkLocks, has_object};
pub use pins::detach;
pub use plane::PacketPlane;
pub use refusal::Refusal;
pub use setup::PacketSetup;
pub use trace::trace;
