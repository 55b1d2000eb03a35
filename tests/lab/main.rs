// SPDX-License-Identifier: Apache-2.0
//! Real traffic in network namespaces. All of it needs root: run it with `cargo xtask test`.
//!
//! Each scenario is a function of a [`plane::Plane`]; [`planes`] runs the whole list for each plane.
//! `self_check` tests the lab itself, `servers` its servers and clients, `start` an agent that cannot start,
//! `one_agent` two agents on one link (in a lab of `stage`), `group` and `routed` several boxes, `metrics` what a monitoring system gets,
//! `detach` what ended agents leave, `doctor` what is wrong before an agent starts, and `demo` the demo.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test, also in functions that tests share")]

mod demo;
mod detach;
mod doctor;
mod group;
mod metrics;
mod one_agent;
mod planes;
mod routed;
mod scenarios;
mod self_check;
mod servers;
mod service_manager;
mod setup;
mod stage;
mod start;

use llb_tests::plane;
