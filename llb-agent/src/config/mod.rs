// SPDX-License-Identifier: Apache-2.0
//! From the command line to a validated [`Config`]. No other code uses clap, reads the
//! environment, or has defaults.
//!
//! ```text
//! cli.rs, arguments.rs, datapath.rs --validate.rs--> settings.rs, policy.rs, relay.rs
//!  raw flags                                          Config, Policy, RelayConfig
//! ```

mod arguments;
mod cli;
mod count;
mod datapath;
mod defaults;
mod duration;
mod environment;
mod permission;
mod policy;
mod relay;
mod settings;
#[cfg(test)]
mod tests;
mod validate;

pub use cli::{Cli, Invocation};
pub use datapath::{AtStop, Datapath, PacketConfig, PortRange, XdpMode};
pub use environment::{kubeconfig_variable, log_filter, search_path};
pub use permission::OwnPorts;
pub use policy::{BackendMode, DEFAULT_CLASS, Policy};
pub use relay::{RelayConfig, SockmapConfig};
pub use settings::{AddressTag, AfterHandover, Config, SourceConfig};
pub use validate::ConfigError;
