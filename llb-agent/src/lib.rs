//! llb, the little load balancer.
pub mod addresses;
pub mod dataplane;
pub mod kernel;
pub mod model;
