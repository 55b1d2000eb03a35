// SPDX-License-Identifier: Apache-2.0
//! The library that all tests of llb as a whole share: a lab of network namespaces, servers and processes in
//! it, and a driver for the real agent. It contains no tests, and does not decide what behaviour is right.
//!
//! ```text
//!   client      balancer     node-1      node-2       one network namespace each, link "eth0"
//!     |            |            |           |
//!   --+------------+------------+-----------+--       the segment: a bridge in a namespace of its own
//! ```
//!
//! Invariants:
//! - Nothing touches the links of the root namespace.
//! - No route leads out of a lab.
//! - All addresses are from the ranges for documentation (RFC 5737, RFC 3849), those of a flood's sources from the
//!   range for benchmarks (RFC 2544), and those of Pods with a network of their own from the cluster's range.
//! - A dropped lab leaves nothing behind. What a killed run leaves behind, the next run removes.

pub mod agent;
pub mod chaos;
pub mod checksum;
pub mod client;
pub mod cluster;
pub mod connect_proxy;
pub mod environment;
pub mod false_clock;
pub mod flood;
pub mod flow_lines;
pub mod fragments;
pub mod guest;
pub mod lab;
pub mod manifests;
pub mod object;
pub mod plane;
pub mod process;
pub mod questions;
pub mod server;
pub mod soak;
pub mod steady;
pub mod tenant;
pub mod wait;
pub mod wrk;

pub use agent::Agent;
pub use connect_proxy::ConnectProxy;
pub use false_clock::FalseClock;
pub use flood::Flood;
pub use flow_lines::FlowLines;
pub use lab::{Host, Lab};
pub use manifests::Manifests;
pub use object::packet_object;
pub use process::Process;
pub use questions::{Answers, Questions};
pub use server::Server;
pub use steady::Steady;
pub use tenant::Tenant;
pub use wait::wait_until;
pub use wrk::Wrk;
