// SPDX-License-Identifier: Apache-2.0
//! llb, the little load balancer, as a library, so that tests can use its
//! modules. ARCHITECTURE.md has the whole picture; in short:
//!
//! ```text
//!   source --> Snapshot --.                          .--> dataplane   listeners, relays, eBPF
//!   addresses -> Facts ----+--> desired --> plan -> reconcile --> addresses   VIPs on links
//!   config -> Policy -----'      (pure)    (pure)    '--> status      Service.status, Events
//! ```
//!
//! Floors, lowest first: `model`, `config` < `desired`, `plan`, `ownership` < `source`, `dataplane`,
//! `addresses`, `status`, `handover`, `health`, `peers` < `reconcile` < `agent`, `admin`, `explain`, `observe`,
//! `rbac`. A module
//! imports only from lower floors. `netlink`, `packet_socket`, `kernel`, `statefile`, `kube_error`,
//! `clock`, `error_chain` and `telemetry` are small services for several floors.

pub mod addresses;
pub mod admin;
pub mod agent;
mod clock;
pub mod config;
pub mod dataplane;
pub mod desired;
pub mod error_chain;
mod explain;
pub mod handover;
pub mod health;
pub mod kernel;
mod kube_error;
pub mod model;
mod netlink;
pub mod observe;
pub mod ownership;
mod packet_socket;
pub mod peers;
pub mod plan;
pub mod rbac;
pub mod reconcile;
pub mod source;
pub mod statefile;
pub mod status;
mod suggestion;
pub mod telemetry;
