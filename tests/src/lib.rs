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

pub mod cluster;
pub mod lab;
pub mod process;
pub mod wait;

pub use lab::{Host, Lab};
pub use process::Process;
pub use wait::wait_until;
