// SPDX-License-Identifier: Apache-2.0
//! The packet plane: eBPF programs at the links. They forward by maps that this room fills.
//!
//! ```text
//!   rule --> PacketPlane                                      plane.rs
//!                |--> next hops: routes, neighbours           next_hops.rs, neighbours.rs, last_hops.rs, link_facts.rs
//!                |--> the addresses that backends see         sources.rs, own_sources.rs
//!                `--> State: serve, close, drain, remove      state.rs, drain.rs     takes time and maps as arguments
//!                        |--> image of the maps: ids, tables  image/                 pure
//!                        `--> writes --> MapStore             map_store.rs: maps.rs in the kernel, fake.rs in tests
//!                                                             raw maps: table.rs, flow_table.rs
//!
//!   start:   links -> hooks -> object, maps, program          hooks.rs, loader.rs, attach.rs, pins.rs; without tcx: clsact.rs
//!            before it, without a change: which hooks     forecast.rs
//!            maps of another size or layout                   map_sizes.rs, migrate.rs
//!   upkeep:  next hops followed, flows swept, drains ended    upkeep.rs, schedule.rs, sweep.rs
//!            frontends that should be placed anew             placing.rs, moves.rs
//!            routers that lead to clients                     gateways.rs, return_path.rs
//!            dead backends                                    failures.rs
//!            hooks tried again; losses of XDP                 ladder.rs, xdp_loss.rs, relink.rs
//!   tester:  suspected backends tested, dead ones marked      tester.rs, suspects.rs
//!   canaries: Nodes asked before they get clients (dsr)      canary_sender.rs, canary.rs, readiness/
//!   detach:  pins of any layout removed                       pins.rs; programs of other folders: leftover.rs
//!   answers: ICMP errors about packets that were dropped      answers.rs
//!   early:   fragments that came before the first one          early.rs, early_frames.rs
//!   shared by plane, upkeep and metrics                       shared.rs
//!
//!   <bpf_dir>/v4/<link>/{xdp,tc_ingress}        pinned: keeps the program at the link
//!   <bpf_dir>/v4/<link>/clsact_{filter,qdisc}   empty folders: what of the link's clsact qdisc is llb's
//!   <bpf_dir>/v4/<link>/{LINK,LINK_COUNTERS}    pinned: the link's switch and its counters
//!   <bpf_dir>/v4/shared_between_links/<MAP>     pinned: all other maps
//! ```
//!
//! Invariants:
//! - What is pinned outlives the agent. The programs of a killed agent go on forwarding, and the
//!   next agent takes over maps and links without a gap.
//! - One process has a link or the maps at a time. The locks are on the folders, and end with the
//!   process.
//! - Packets see a change of a frontend by one write.
//! - The maps are the truth. When a write has failed, the image is read back from them.

mod answers;
mod attach;
mod canary;
mod canary_filter;
mod canary_sender;
mod clock;
mod clsact;
mod drain;
mod early;
mod early_frames;
mod error;
mod failures;
#[cfg(test)]
mod fake;
mod flow_table;
mod forecast;
mod gateways;
mod hooks;
pub mod image;
mod ladder;
mod last_hops;
mod leftover;
mod link_device;
mod link_facts;
mod loader;
#[cfg(feature = "ebpf-log")]
mod log;
mod lro;
mod map_sizes;
mod map_store;
mod maps;
mod metrics;
mod migrate;
mod moves;
mod neighbours;
mod next_hops;
mod own_sources;
mod packet_link;
mod pins;
mod placing;
mod plane;
mod readiness;
mod refusal;
mod relink;
mod retry;
mod return_path;
mod ring;
mod schedule;
mod settings;
mod setup;
mod shared;
#[cfg(test)]
mod simulation;
mod sources;
mod state;
mod suspects;
mod sweep;
mod table;
mod tester;
mod trace;
mod turn;
mod upkeep;
mod vip_look;
mod xdp_loss;
mod xdp_removal;

pub use error::PacketError;
pub use forecast::{HookForecast, forecast};
pub use leftover::still_forwarding;
pub use loader::{LinkLocks, has_object};
pub use neighbours::release_neighbours;
pub use pins::{detach, pinned_links, provide_bpffs};
pub use plane::PacketPlane;
pub use refusal::Refusal;
pub use return_path::problems as return_path_problems;
pub use setup::{LinkPermission, PacketSetup};
pub use trace::trace;
pub use turn::Turn;
