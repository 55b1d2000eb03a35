// SPDX-License-Identifier: Apache-2.0
//! The proxy plane: it accepts TCP connections and UDP sessions and relays them
//! in user space. It needs only sockets from the kernel, so it works everywhere.
//!
//! ```text
//!   ProxyPlane                                                      plane.rs, plane_context.rs
//!    `-- one RunningFrontend each: sockets, rule, drain             frontend.rs, frontend_context.rs, lifecycle.rs
//!         |-- one socket on each worker; beside packets: one        role.rs, bind.rs, listener.rs, worker.rs
//!         |    |-- TCP: accept loop                                 accept.rs
//!         |    |     `-- one task for each connection               tcp.rs
//!         |    |           |-- is it allowed?                       service_limit.rs, namespace_share.rs, model/terms.rs
//!         |    |           |-- choose a backend                     affinity.rs, selection/
//!         |    |           `-- send the header, relay the bytes     proxy_protocol.rs, relay.rs
//!         |    |                  |-- copied or spliced             direction.rs, unwritten.rs, pipe.rs
//!         |    |                  `-- moved by the kernel           sockmap/
//!         |    `-- UDP: a loop that owns its sessions               udp.rs, udp_session.rs, udp_offload.rs
//!         |          `-- one task for each session's replies
//!         |-- open connections: to count them and to cut them       connections.rs
//!         `-- metrics: totals; by frontend and backend              metrics.rs, traffic.rs, traffic_collector.rs, counting.rs
//! ```
//!
//! | task | one for each | input | ends |
//! |---|---|---|---|
//! | accept loop | worker and TCP frontend with backends | its listener | the listener is closed or dead |
//! | connection | accepted connection | both sockets | both directions are complete, a side is lost, the connection is idle for too long, or it is cut |
//! | UDP loop | worker and UDP frontend with backends | its socket | the frontend is closed |
//! | replies | UDP session | the session's socket | the session is idle or failed, its backend is gone, or the frontend is closed |
//! | news | plane | backends that died or came back | the plane is dropped |
//! | drain | `remove` | number of open connections | none is left, or the drain time-out has passed |
//!
//! When a new agent replaces this one (`handover`), it takes over the sockets
//! themselves, so nothing that waits in them is lost.
//!
//! Only TCP drains. A UDP frontend closes at once, because UDP has no end of a
//! conversation to wait for.
//!
//! Invariants:
//! - A slow or dead backend or client delays no other connection.
//! - A new rule never touches a connection that already has its backend.
//! - A stream that lost bytes ends with a reset, never with FIN.
//! - Nothing moves from one worker to another.
//! - There are no queues between tasks. Everything else has a limit in
//!   [`RelayConfig`](crate::config::RelayConfig) or a constant.

mod accept;
mod affinity;
mod bind;
mod connections;
mod counting;
mod direction;
mod exhaustion;
mod frontend;
mod frontend_context;
mod inherited;
mod latency;
mod lifecycle;
mod listener;
mod live_entries;
mod liveness;
mod metrics;
mod namespace_share;
mod pipe;
mod plane;
mod plane_context;
mod port_owner;
mod proxy_protocol;
mod relay;
mod role;
mod selection;
mod service_limit;
mod sides;
mod sockmap;
mod tcp;
#[cfg(test)]
mod tests;
mod traffic;
mod traffic_collector;
mod udp;
mod udp_offload;
mod udp_session;
mod unwritten;
mod worker;

pub use self::counting::RelayCounting;
pub use self::inherited::RelaySocket;
pub use self::plane::ProxyPlane;
