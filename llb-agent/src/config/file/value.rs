// SPDX-License-Identifier: Apache-2.0
//! Values as texts, as they stand on a command line, and where they come from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum Origin {
    /// Nobody gave it.
    Default,
    /// A configuration file.
    File {
        /// Its path or name.
        name: Arc<str>,
        /// From 1 on.
        line: usize,
    },
    /// This environment variable.
    Environment(&'static str),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Value {
    /// As it stands on a command line.
    pub(in crate::config) text: String,
    pub(in crate::config) origin: Origin,
}

/// The values of some keys. A key with an empty list is given, and has no value.
pub(in crate::config) type Layer = BTreeMap<String, Vec<Value>>;
