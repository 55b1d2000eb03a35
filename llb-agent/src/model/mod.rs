// SPDX-License-Identifier: Apache-2.0
//! The nouns of llb: plain data, no I/O, no decisions. Types that several modules
//! exchange are declared here.
//!
//! Decisions use a [`Snapshot`] and [`Facts`] and result in a [`State`]. [`Observed`] is
//! what was read back from the world. A [`Problem`] says what is wrong with a user's object.

mod address;
mod announce;
mod backend_failure;
mod backend_status;
mod cluster_pools;
mod conditions;
mod counts;
mod disjoint_pools;
mod finalizer;
mod flow;
mod forwarding;
mod health;
mod host;
mod inputs;
mod mode;
mod other_clients;
mod placement;
mod planes;
mod pool;
mod problem;
mod range;
mod selector;
mod service;
mod share;
mod state;
mod terms;
mod writer;

pub use address::{Family, Mac, Port, Protocol, is_usable_vip};
pub use announce::{Announce, VIP_LINK};
pub use backend_failure::{BackendFailure, FailedBackends, FailureReason};
pub use backend_status::{BackendState, BackendStatus};
pub use cluster_pools::ClusterPools;
pub use conditions::{Condition, Conditions};
pub use counts::{COUNTED, Counted, Counter, Counts, Fill, LinkCount, RATED};
pub use disjoint_pools::DisjointPools;
pub use finalizer::{FIELD_MANAGER, Finalizer};
pub use flow::{FlowEnd, FlowEndError, FlowEnds, FlowState};
pub use forwarding::{Backend, Frontend, FrontendStatus, Phase, Rule, Weight};
pub use health::{Check, Failure, HealthCheck, LeftOut, Verdict, Verdicts};
pub use host::{Host, ReservedFor};
pub use inputs::{Endpoint, Facts, Link, LinkAddress, Node, Snapshot, SourceReport};
pub use mode::Mode;
pub use other_clients::OtherClients;
pub use placement::{
    PacketLimit, PacketObstacle, Placement, PlacementReason, PlaneKind, RelayFeature, RelayReason,
};
pub use planes::{Hook, HookChoice, HookReason, HookRefusal, LinkPlane, NoPacketPlane, PlanesState};
pub use pool::{Pool, PoolError, PoolUsage};
pub use problem::{MESSAGE_BYTES, Problem, ProblemReason, Subject, bound, cut};
pub use range::{AddressRange, RangeError};
pub use selector::{Selector, SelectorError};
pub use service::{
    PublishedPort, PublishedStatus, PublishedVip, Service, ServiceName, ServicePort, TrafficPolicy,
};
pub use share::{Holding, SHARES, Share, share_of};
pub use state::{AddressKey, Observed, State};
pub use terms::{Balance, ProxyProtocol, SourceRanges, Terms};
pub use writer::{LeaseName, LeaseNameError, Role, StatusWriter};
