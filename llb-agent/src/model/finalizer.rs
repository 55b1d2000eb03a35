// SPDX-License-Identifier: Apache-2.0
//! The finalizer by which a Service is kept until its VIPs are gone (KEP-980).

use serde::{Deserialize, Serialize};

/// Whether `metadata.finalizers` of a Service has [`Finalizer::NAME`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finalizer {
    /// It does not.
    #[default]
    Absent,
    /// llb has added it, and removes it.
    Ours,
    /// Somebody else has added it. llb leaves it alone.
    Foreign,
}

/// llb's name in managed fields, which say who has added a finalizer, and in Events.
pub const FIELD_MANAGER: &str = "llb";

impl Finalizer {
    /// The name is the same for all load balancers.
    pub const NAME: &str = "service.kubernetes.io/load-balancer-cleanup";

    /// Whether the Service does not have it.
    pub fn is_absent(&self) -> bool {
        *self == Self::Absent
    }
}
