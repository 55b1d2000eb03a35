//! The packet plane: eBPF programs at the links. The programs can forward, but
//! nothing here tells them to: their map `LINK` stays empty, so they count
//! the frames of each link and let them pass.
//!
//! ```text
//!   frame -> link -> [ TC ingress: llb_tc_ingress ] -> kernel stack
//!                         |  +1 packet, +n bytes
//!                    LINK_COUNTERS (one map per link, one value per CPU)
//!                         |
//!                    PacketObserver::counters
//!
//!   <bpf_dir>/v1/<link>/tc_ingress       pinned: keeps the program at the link
//!   <bpf_dir>/v1/<link>/LINK_COUNTERS    pinned: keeps the counts
//! ```
//!
//! Invariants: what is pinned survives the agent, so a killed agent's
//! programs go on, and the next agent takes them over without a gap. One
//! process holds one link: the lock is on the link's folder, and ends with
//! the process. Maps are read as plain bytes: there is no `unsafe` here.

mod error;
mod loader;
#[cfg(feature = "ebpf-log")]
mod log;
mod metrics;
mod pins;

pub use error::PacketError;
pub use loader::{LinkLocks, PacketObserver, has_object};
pub use pins::detach;
