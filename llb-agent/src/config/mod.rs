// SPDX-License-Identifier: Apache-2.0
//! From the command line to a validated [`Config`]. No other code uses clap, reads the
//! environment. All defaults are here, but for two that depend on the machine: `--max-flows`
//! (`dataplane/packet/map_sizes.rs`) and `--snat-ports` (`dataplane/packet/settings.rs`).
//!
//! ```text
//! cli.rs, arguments.rs,  --validate.rs--> settings.rs, policy.rs, datapath.rs, relay.rs
//! datapath.rs, relay.rs                   Config,      Policy,    PacketConfig, RelayConfig
//! raw flags
//! ```

mod admin;
mod arguments;
mod cli;
mod count;
mod datapath;
mod defaults;
mod duration;
mod environment;
mod health;
mod lease;
mod permission;
mod policy;
mod relay;
mod settings;
#[cfg(test)]
mod tests;
mod validate;

pub use admin::{AdminConfig, AdminSocketConfig, AdminTarget};
pub use cli::{Cli, Invocation};
pub use datapath::{AtStop, Datapath, PacketConfig, PortRange, ReturnPath, TcAttachment, XdpMode};
pub use environment::{
    has_service_manager, kubeconfig_variable, log_filter, proxy_variables, runtime_directory, search_path,
};
pub use health::HealthConfig;
pub use permission::OwnPorts;
pub use policy::{BackendMode, DEFAULT_CLASS, Policy};
pub use relay::{NamespaceShare, RelayConfig, SockmapConfig};
pub use settings::{AddressTag, AfterHandover, Config, SourceConfig};
pub use validate::ConfigError;
