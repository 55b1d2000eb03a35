// SPDX-License-Identifier: Apache-2.0
//! Whatever moves packets or bytes, behind one trait, [`DataPlane`]. A plane receives
//! finished rules: which frontend, which backends and when is decided before it is called.
//!
//! ```text
//!   DataPlane --> Planes: which plane serves a frontend   planes.rs, placement.rs (pure)
//!                   |--> packet plane: eBPF programs      packet/
//!                   `--> relay: accepted connections      proxy/
//! ```
//!
//! Invariant: a plane knows neither Kubernetes nor addresses on links.

mod backend_states;
mod counting;
mod data_plane;
pub mod fake;
mod held_ports;
mod kernel_connections;
pub mod packet;
mod placement;
mod planes;
pub mod proxy;

pub use backend_states::BackendStates;
pub use counting::Counting;
pub use data_plane::{DataPlane, DataPlaneError};
pub use planes::Planes;
