// SPDX-License-Identifier: Apache-2.0
//! Asks the kernel about links, addresses, routes and neighbours over
//! rtnetlink. It knows messages, not VIPs.
//!
//! Invariant: an answer is complete or it is an error. A list with a gap would
//! hide foreign addresses or neighbours. The rtnetlink crate is not used for
//! questions, because it skips messages that it cannot decode.
//!
//! ```text
//!   links, addresses, routes, neighbours     one file per subject: methods of Connection
//!      `--> Connection --> dump              reads a list again if it changed meanwhile
//!                 `------> Socket --> Answer collects datagrams until the answer is complete
//!   driver --> xdp_features, offloads        over generic netlink, with sockets of their own: Family
//!   filters                                  of clsact qdiscs; blocking
//! ```

mod addresses;
mod answer;
mod connection;
mod driver;
mod dump;
mod failure;
mod filters;
mod gateways;
mod generic;
mod link_attributes;
mod link_changes;
mod link_local;
mod links;
mod neighbours;
mod offloads;
mod routes;
mod socket;
#[cfg(test)]
mod tests;
mod xdp_features;

pub(crate) use self::addresses::OwnAddress;
pub(crate) use self::connection::Connection;
pub(crate) use self::driver::{Driver, drivers};
pub(crate) use self::filters::{Filter, FilterHook, filters, remove_clsact, remove_filter};
pub(crate) use self::links::LinkDevice;
pub(crate) use self::neighbours::Neighbour;
pub(crate) use self::offloads::{Offloads, has_hardware_gro, has_lro, turn_lro_off};
pub(crate) use self::routes::{Route, Way};
pub(crate) use self::xdp_features::XdpFeatures;
