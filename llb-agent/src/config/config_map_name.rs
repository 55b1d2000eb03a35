// SPDX-License-Identifier: Apache-2.0
//! Which ConfigMap has pools.

use std::fmt;

use crate::model::LeaseName;

/// `--config-map`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMapName {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

impl fmt::Display for ConfigMapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Names of ConfigMaps have the form of names of Leases.
pub(super) fn parse_config_map(text: &str) -> Result<ConfigMapName, &'static str> {
    let wrong = "give NAMESPACE/NAME, as in llb/pools, with small letters, digits, - and . only";
    let LeaseName { namespace, name } = text.parse().map_err(|_| wrong)?;
    Ok(ConfigMapName { namespace, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name_has_a_namespace() {
        assert_eq!(parse_config_map("llb/pools").unwrap().to_string(), "llb/pools");
        for text in ["pools", "llb/", "/pools", "a/b/c", "llb/Pools"] {
            assert!(parse_config_map(text).is_err(), "{text}");
        }
    }
}
