// SPDX-License-Identifier: Apache-2.0
//! The harness of every test that needs more than one room: a lab of network
//! namespaces, servers and processes inside it, and a driver for the real
//! agent. No test lives here, and nothing here decides what is right.
//!
//! ```text
//!   client      balancer     node-1      node-2       one network namespace each, link "eth0"
//!     |            |            |           |
//!   --+------------+------------+-----------+--       the segment: a bridge in a namespace of its own
//! ```
//!
//! Invariants: nothing touches the links of the root namespace; there is no
//! route out of a lab; all addresses are from the documentation ranges
//! (RFC 5737, RFC 3849); a dropped lab leaves nothing, and what a killed run
//! left is swept by the next.

pub mod agent;
pub mod client;
pub mod cluster;
pub mod environment;
pub mod flood;
pub mod flow_lines;
pub mod lab;
pub mod manifests;
pub mod object;
pub mod process;
pub mod server;
pub mod soak;
pub mod steady;
pub mod wait;
pub mod wrk;

pub use agent::Agent;
pub use flood::Flood;
pub use flow_lines::FlowLines;
pub use lab::{Host, Lab};
pub use manifests::Manifests;
pub use object::packet_object;
pub use process::Process;
pub use server::Server;
pub use steady::Steady;
pub use wait::wait_until;
pub use wrk::Wrk;
