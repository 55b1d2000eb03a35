// SPDX-License-Identifier: Apache-2.0
//! The flags of `llb-agent rbac`: who gets rights in a cluster, and for what. Not: which rights (`crate::rbac`).

use std::str::FromStr;

use clap::Args;

use super::config_map_name::{ConfigMapName, parse_config_map};
use super::lease::{LeaseChoice, lease_of, parse_lease};
use super::policy::DEFAULT_CLASS;
use crate::model::LeaseName;

/// The flags.
#[derive(Debug, Args)]
pub(super) struct RbacArgs {
    /// ServiceAccount that gets the rights; roles and bindings have its name
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "llb/llb-agent")]
    account: Account,
    /// The agent's --namespace; repeatable. The rights on its Services then hold in these namespaces only
    #[arg(long = "namespace", value_name = "NAME")]
    namespaces: Vec<String>,
    /// The agent's --class
    #[arg(long, value_name = "CLASS", default_value = DEFAULT_CLASS)]
    class: String,
    /// The agent's --lease
    #[arg(long, value_name = "NAMESPACE/NAME|off", value_parser = parse_lease)]
    lease: Option<LeaseChoice>,
    /// The agent's --config-map; the right to read it is in a Role of its own
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_config_map)]
    config_map: Option<ConfigMapName>,
}

/// Who gets rights, and for what.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The ServiceAccount.
    pub account: Account,
    /// The only namespaces whose Services are served; empty: all are served.
    pub namespaces: Vec<String>,
    /// The Lease of the agent's group.
    pub lease: Option<LeaseName>,
    /// The ConfigMap with pools.
    pub config_map: Option<ConfigMapName>,
}

/// The name of a ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name within the namespace.
    pub name: String,
}

impl From<RbacArgs> for Grant {
    fn from(args: RbacArgs) -> Self {
        let RbacArgs { account, mut namespaces, class, lease, config_map } = args;
        namespaces.sort();
        namespaces.dedup();
        let lease = lease_of(lease, &class, &namespaces);
        Self { account, namespaces, lease, config_map }
    }
}

/// A text is no name of a ServiceAccount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give NAMESPACE/NAME, as in llb/llb-agent, with small letters, digits and - only")]
pub struct AccountError;

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_label = |label: &str| !label.is_empty() && label.chars().all(is_inner);
        let (namespace, name) = text.split_once('/').ok_or(AccountError)?;
        if !is_label(namespace) || !is_label(name) {
            return Err(AccountError);
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_a_namespace_and_a_name() {
        let account = Account { namespace: "llb".to_owned(), name: "llb-agent".to_owned() };
        assert_eq!("llb/llb-agent".parse(), Ok(account));
        for text in ["", "llb", "/a", "a/", "a/b/c", "A/b", "a/b c", "a/b: c"] {
            assert_eq!(text.parse::<Account>(), Err(AccountError), "{text}");
        }
    }
}
