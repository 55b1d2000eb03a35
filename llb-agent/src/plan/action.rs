// SPDX-License-Identifier: Apache-2.0
//! One change as data, and the object that it changes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::model::{AddressKey, Conditions, Finalizer, Frontend, PublishedStatus, Rule, ServiceName};

/// One change, as data. The executor's `match` over it is the list of
/// everything that llb changes on a machine or in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Find out whether another host has a VIP.
    ProbeAddress {
        /// The VIP and its link.
        key: AddressKey,
    },
    /// Serve a frontend by a rule.
    UpsertFrontend {
        /// The frontend.
        frontend: Frontend,
        /// Its backends and how traffic is spread over them.
        rule: Arc<Rule>,
    },
    /// Put a VIP on a link.
    AddAddress {
        /// The VIP and the link.
        key: AddressKey,
        /// The length of the subnet prefix in bits.
        prefix_length: u8,
    },
    /// Write the status of a Service; an empty one clears it.
    WriteStatus {
        /// The Service.
        service: ServiceName,
        /// The new status.
        status: PublishedStatus,
    },
    /// Write llb's conditions of a Service, and leave its addresses as they are.
    WriteConditions {
        /// The Service.
        service: ServiceName,
        /// The new conditions.
        conditions: Box<Conditions>,
    },
    /// Accept no new traffic for a frontend; let old connections finish.
    RemoveFrontend {
        /// The frontend.
        frontend: Frontend,
    },
    /// Take a VIP off a link.
    RemoveAddress {
        /// The VIP and the link.
        key: AddressKey,
        /// The length of the subnet prefix in bits.
        prefix_length: u8,
    },
}

/// The object that an action changes. Retries and back-off are kept per object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionKey {
    /// A frontend.
    Frontend(Frontend),
    /// An address.
    Address(AddressKey),
    /// A Service's status.
    Status(ServiceName),
}

impl ActionKey {
    /// The VIP that a frontend or an address belongs to.
    pub(super) fn vip(&self) -> Option<IpAddr> {
        match self {
            Self::Frontend(frontend) => Some(frontend.vip),
            Self::Address(key) => Some(key.address),
            Self::Status(_) => None,
        }
    }
}

impl Action {
    /// The VIP that the action puts on a link, and its prefix length.
    pub fn added_address(&self) -> Option<(&AddressKey, u8)> {
        match self {
            Self::AddAddress { key, prefix_length } => Some((key, *prefix_length)),
            _ => None,
        }
    }

    /// The object that the action changes.
    pub fn key(&self) -> ActionKey {
        match self {
            Self::UpsertFrontend { frontend, .. } | Self::RemoveFrontend { frontend } => {
                ActionKey::Frontend(*frontend)
            }
            Self::ProbeAddress { key } | Self::AddAddress { key, .. } | Self::RemoveAddress { key, .. } => {
                ActionKey::Address(key.clone())
            }
            Self::WriteStatus { service, .. } | Self::WriteConditions { service, .. } => {
                ActionKey::Status(service.clone())
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProbeAddress { key } => write!(f, "probe for {key}"),
            Self::UpsertFrontend { frontend, rule } => {
                write!(f, "serve {frontend} for {} by {} backends", rule.service, rule.backends.len())
            }
            Self::AddAddress { key, prefix_length } => {
                write!(f, "add {}/{prefix_length} to {}", key.address, key.link)
            }
            Self::WriteStatus { service, status } => {
                if status.vips.is_empty() {
                    write!(f, "clear the status of {service}")?;
                } else {
                    write!(f, "publish for {service}:")?;
                    status.vips.iter().try_for_each(|vip| write!(f, " {}", vip.ip))?;
                }
                if status.finalizer == Finalizer::Ours { f.write_str(", with finalizer") } else { Ok(()) }
            }
            Self::WriteConditions { service, .. } => write!(f, "write the conditions of {service}"),
            Self::RemoveFrontend { frontend } => write!(f, "end {frontend}"),
            Self::RemoveAddress { key, prefix_length } => {
                write!(f, "remove {}/{prefix_length} from {}", key.address, key.link)
            }
        }
    }
}
