// SPDX-License-Identifier: Apache-2.0
//! Frontends that a Service asks for and does not get, as its status says it.

use std::collections::BTreeMap;

use crate::model::Frontend;

/// `ports[].error` of a port that another Service has on this VIP ...
pub(super) const FRONTEND_COLLISION: &str = "llb.dev/FrontendCollision";
/// ... of a port on a VIP that its other Services do not share ...
pub(super) const VIP_NOT_SHARED: &str = "llb.dev/VipNotShared";
/// ... of a port beyond those that one Service can have ...
pub(super) const TOO_MANY_FRONTENDS: &str = "llb.dev/TooManyFrontends";
/// ... of a port beyond those that the Services of one namespace can have ...
pub(super) const NAMESPACE_LIMIT: &str = "llb.dev/NamespaceLimit";
/// ... and of a port that is reserved for the machine.
pub(super) const PORT_NOT_ALLOWED: &str = "llb.dev/PortNotAllowed";

/// Each refused frontend with its error, one of the above.
pub(super) type Refused = BTreeMap<Frontend, &'static str>;

/// Whether a published port was refused. Other errors pass; the Service has the port all the same.
pub(super) fn is_refused(error: Option<&str>) -> bool {
    error.is_some_and(|error| {
        [FRONTEND_COLLISION, VIP_NOT_SHARED, TOO_MANY_FRONTENDS, NAMESPACE_LIMIT, PORT_NOT_ALLOWED]
            .contains(&error)
    })
}
