// SPDX-License-Identifier: Apache-2.0
//! Which flows an operator asks for.

use std::collections::BTreeSet;

use crate::model::{FlowEnd, FlowEnds, Frontend};

/// All conditions must hold; `None` is no condition.
#[derive(Clone, Debug, Default)]
pub(crate) struct FlowFilter {
    /// The frontends of a Service.
    pub(crate) frontends: Option<BTreeSet<Frontend>>,
    /// The VIP, with its port or with any.
    pub(crate) vip: Option<FlowEnd>,
    /// The client.
    pub(crate) client: Option<FlowEnd>,
    /// The backend.
    pub(crate) backend: Option<FlowEnd>,
}

impl FlowFilter {
    /// Whether the flow is wanted.
    pub(crate) fn admits(&self, ends: &FlowEnds) -> bool {
        self.client.is_none_or(|client| client.is(ends.client))
            && self.vip.is_none_or(|vip| vip.is(ends.frontend.socket_address()))
            && self.backend.is_none_or(|backend| backend.is(ends.backend))
            && self.frontends.as_ref().is_none_or(|frontends| frontends.contains(&ends.frontend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_wanted_if_all_conditions_hold() {
        let end = |text: &str| Some(text.parse::<FlowEnd>().unwrap());
        let web = Frontend::named("192.0.2.100:80/TCP").unwrap();
        let dns = Frontend::named("192.0.2.100:80/UDP").unwrap();
        let ends = FlowEnds {
            frontend: web,
            client: "198.51.100.10:40000".parse().unwrap(),
            backend: "192.0.2.31:30080".parse().unwrap(),
        };
        let none = FlowFilter::default();
        let cases = [
            (none.clone(), true),
            (FlowFilter { client: end("198.51.100.10"), ..none.clone() }, true),
            (FlowFilter { client: end("198.51.100.10:40001"), ..none.clone() }, false),
            (FlowFilter { vip: end("192.0.2.100:80"), ..none.clone() }, true),
            (FlowFilter { vip: end("192.0.2.101"), ..none.clone() }, false),
            (FlowFilter { backend: end("192.0.2.31"), ..none.clone() }, true),
            (FlowFilter { backend: end("192.0.2.32"), ..none.clone() }, false),
            (FlowFilter { frontends: Some([web].into()), ..none.clone() }, true),
            (FlowFilter { frontends: Some([dns].into()), ..none.clone() }, false),
            (FlowFilter { frontends: Some([].into()), ..none.clone() }, false),
            (FlowFilter { client: end("198.51.100.10"), backend: end("192.0.2.32"), ..none }, false),
        ];
        for (filter, expected) in cases {
            assert_eq!(filter.admits(&ends), expected, "{filter:?}");
        }
    }
}
