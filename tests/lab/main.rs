// SPDX-License-Identifier: Apache-2.0
//! Real traffic in network namespaces. Everything here needs root; run it with
//! `cargo xtask test`.
//!
//! The scenarios are functions of a [`plane::Plane`]; [`planes`] runs the whole
//! list for each.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, and so do its helper functions")]

mod demo_test;
mod one_agent_test;
mod plane;
mod planes;
mod scenarios;
mod self_test;
mod server_test;
mod setup;
mod start_test;
