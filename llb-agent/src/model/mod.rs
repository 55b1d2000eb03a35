// SPDX-License-Identifier: Apache-2.0
//! The nouns of llb: plain data, no I/O, no decisions. Everything that two
//! rooms exchange is declared here.
//!
//! [`Snapshot`] and [`Facts`] are what a decision may look at, [`State`] is
//! what it results in, [`Observed`] is what was read back, and a [`Problem`]
//! says what is wrong with a user's object.

mod address;
mod forwarding;
mod inputs;
mod placement;
mod planes;
mod pool;
mod problem;
mod range;
mod selector;
mod service;
mod state;
mod terms;

pub use address::{Family, Mac, Port, Protocol, is_usable_vip};
pub use forwarding::{Backend, Frontend, FrontendStatus, Mode, Phase, Rule, Weight};
pub use inputs::{Endpoint, Facts, Link, LinkAddress, Node, Snapshot, SourceReport};
pub use placement::{
    PacketLimit, PacketObstacle, Placement, PlacementReason, PlaneKind, RelayFeature, RelayReason,
};
pub use planes::{
    BackendState, BackendStatus, Hook, HookChoice, HookReason, HookRefusal, LinkPlane, NoPacketPlane,
    PlanesState,
};
pub use pool::{Pool, PoolError};
pub use problem::{Problem, ProblemReason, Subject};
pub use range::{AddressRange, RangeError};
pub use selector::{Selector, SelectorError};
pub use service::{
    PublishedPort, PublishedStatus, PublishedVip, Service, ServiceName, ServicePort, TrafficPolicy,
};
pub use state::{AddressKey, Observed, State};
pub use terms::{Balance, ProxyProtocol, SourceRanges, Terms};
