//! llb, the little load balancer: see ARCHITECTURE.md for the map.
pub mod addresses;
pub mod config;
pub mod dataplane;
pub mod desired;
pub mod model;
pub mod plan;
pub mod reconcile;
pub mod statefile;
pub mod source;
pub mod status;
