// SPDX-License-Identifier: Apache-2.0
//! From flags, environment and configuration file to a validated [`Config`]. No other code uses clap, or reads the
//! environment. All defaults are here, but for two that depend on the machine: `--max-flows`
//! (`dataplane/packet/map_sizes.rs`) and `--snat-ports` (`dataplane/packet/settings.rs`).
//!
//! ```text
//! cli.rs, arguments.rs,  --command_line.rs--> one command line --validate.rs--> settings.rs, policy.rs, ...
//! datapath.rs, relay.rs          ^            (flags, and keys                  Config,      Policy, PacketConfig,
//! raw flags                    file/           that no flag overrides)                       RelayConfig
//! ```

mod admin;
mod announce;
mod arguments;
mod cli;
mod command_line;
mod config_map;
mod config_map_name;
mod count;
mod datapath;
mod defaults;
mod doctor;
mod duration;
mod environment;
mod file;
mod flows;
mod group;
mod health;
mod lease;
mod list;
mod order;
mod permission;
mod policy;
mod rbac;
mod relay;
mod settings;
#[cfg(test)]
mod tests;
mod validate;
mod values;
mod version;

pub use admin::{AdminConfig, AdminSocketConfig, AdminTarget};
pub use announce::AnnounceError;
pub use cli::{Cli, Invocation};
pub use command_line::{CommandLine, Configured, check_file};
pub use config_map::{ConfigMapError, pools_of};
pub use config_map_name::ConfigMapName;
pub use datapath::{AtStop, Datapath, PacketConfig, PortRange, ReturnPath, TcAttachment, XdpMode};
pub use doctor::{DoctorArgs, DoctorOutput};
pub use environment::{
    has_service_manager, kubeconfig_variable, log_filter, proxy_variables, runtime_directory, search_path,
};
pub use file::{Change, Effective, Mistake, Mistakes, example};
pub use flows::{FlowsArgs, FlowsOutput};
pub use group::{GroupConfig, GroupError};
pub use health::HealthConfig;
pub use list::{ChangesArgs, ListArgs, ListOutput};
pub use order::Order;
pub use permission::OwnPorts;
pub use policy::{BackendMode, DEFAULT_CLASS, Policy};
pub use rbac::{Account, Grant};
pub use relay::{NamespaceShare, RelayConfig, SockmapConfig};
pub use settings::{AddressTag, AfterHandover, Config, SourceConfig};
pub use validate::ConfigError;
pub use version::REVISION;
