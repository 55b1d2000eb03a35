// SPDX-License-Identifier: Apache-2.0
//! `--lease`: by which Lease the agents of a group agree on a writer.

use crate::model::{LeaseName, LeaseNameError};

/// `--lease`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeaseChoice {
    /// This agent writes without asking others.
    Off,
    /// By this Lease.
    Named(LeaseName),
}

pub(super) fn parse_lease(text: &str) -> Result<LeaseChoice, LeaseNameError> {
    match text {
        "off" => Ok(LeaseChoice::Off),
        name => name.parse().map(LeaseChoice::Named),
    }
}

/// The Lease of the agents that serve `class` in `namespaces`.
pub(super) fn lease_of(choice: Option<LeaseChoice>, class: &str, namespaces: &[String]) -> Option<LeaseName> {
    match choice {
        None => Some(LeaseName::of_group(class, namespaces)),
        Some(LeaseChoice::Off) => None,
        Some(LeaseChoice::Named(name)) => Some(name),
    }
}
