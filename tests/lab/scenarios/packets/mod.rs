// SPDX-License-Identifier: Apache-2.0
//! What only the packet plane does: it continues without an agent, rewrites packets, and lets nodes answer
//! clients directly.

pub(crate) mod dsr;
pub(crate) mod flood;
pub(crate) mod fragments;
pub(crate) mod jumbo;
mod layouts;
pub(crate) mod link_shapes;
pub(crate) mod moves;
pub(crate) mod neighbours;
pub(crate) mod outages;
pub(crate) mod ports;
pub(crate) mod questions;
pub(crate) mod refusals;
pub(crate) mod restarts;
pub(crate) mod return_path;
pub(crate) mod returned;
pub(crate) mod routers;
pub(crate) mod routes;
pub(crate) mod suspects;
pub(crate) mod vlans;

use llb_tests::manifests::PortSpec;

pub(crate) const DNS: PortSpec<'static> =
    PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: 30053 };
pub(crate) const ECHO: PortSpec<'static> =
    PortSpec { name: "echo", port: 7, protocol: "TCP", node_port: 30007 };
pub(crate) const HTTP: PortSpec<'static> =
    PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };
