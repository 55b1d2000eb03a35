// SPDX-License-Identifier: Apache-2.0
//! Clients of a frontend of the packet plane whose packets its programs do not see: programs on this
//! machine, its Pods and containers, and networks behind links without a program.

use std::fmt;

use serde::{Serialize, Serializer};

/// What becomes of clients whose packets no program sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherClients {
    /// The relay serves them.
    Relayed,
    /// They are refused.
    NotServed {
        /// Why the relay can't serve them.
        why: String,
    },
}

impl fmt::Display for OtherClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relayed => f.write_str("relayed; backends see this machine's address"),
            Self::NotServed { why } => write!(f, "not served: {why}"),
        }
    }
}

impl Serialize for OtherClients {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
