// SPDX-License-Identifier: Apache-2.0
//! What the loop tells the admin endpoint after each round.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::clock;
use crate::model::{Announce, Facts, FailedBackends, Observed, PlanesState, Problem, State, StatusWriter};
use crate::ownership::Overview;

/// What the admin endpoint shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Everything that the first whole snapshot asked for was done, or tried. Never unset again.
    pub ready: bool,
    /// There is a whole snapshot of all objects, live or saved.
    pub has_snapshot: bool,
    /// The links can't be read: what was observed is of an earlier round.
    pub is_blind: bool,
    /// What should be.
    pub desired: Arc<State>,
    /// What is, as read back at the end of the round.
    pub observed: Observed,
    /// The backends that the planes have found dead.
    #[serde(serialize_with = "with_ages")]
    pub failed_backends: FailedBackends,
    /// This machine.
    pub facts: Facts,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// The state of the data planes.
    pub planes: PlanesState,
    /// How clients find the way to VIPs.
    pub announce: Announce,
    /// Which agent of the group writes statuses and Events.
    pub writer: StatusWriter,
    /// The shares of the group; `None`: this box is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Overview>,
}

impl Report {
    /// The report with what was observed `before`, if this round could not observe anything.
    #[must_use]
    pub(super) fn after(self, before: &Self) -> Self {
        if !self.is_blind {
            return self;
        }
        let Self { observed, failed_backends, facts, planes, group, .. } = before.clone();
        Self { observed, failed_backends, facts, planes, group, ..self }
    }
}

/// A failure as it is shown.
#[derive(Serialize)]
struct Shown {
    reason: &'static str,
    why: String,
    /// How long ago it was found.
    seconds: u64,
}

fn with_ages<S: Serializer>(failed: &FailedBackends, serializer: S) -> Result<S::Ok, S::Error> {
    let now = clock::now_std();
    let shown = failed.iter().map(|(frontend, failed)| {
        let shown = failed.iter().map(|(backend, failure)| {
            let seconds = now.saturating_duration_since(failure.since).as_secs();
            (backend, Shown { reason: failure.why.label(), why: failure.why.to_string(), seconds })
        });
        (frontend, shown.collect::<BTreeMap<_, _>>())
    });
    serializer.collect_map(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Backend, BackendFailure, FailureReason, Frontend, Port, Protocol};

    #[test]
    fn a_dead_backend_is_shown_with_its_age_in_a_blind_round_too() {
        let vip = [192, 0, 2, 100].into();
        let frontend = Frontend { vip, port: Port::new(80).unwrap(), protocol: Protocol::Tcp };
        let backend = Backend { address: ([192, 0, 2, 31], 30080).into() };
        let failure = BackendFailure { why: FailureReason::Refused, since: clock::now_std() };
        let failed_backends = [(frontend, [(backend, failure)].into())].into();
        let before = Report { failed_backends, ..Report::default() };
        let blind = Report { is_blind: true, ready: true, ..Report::default() }.after(&before);
        let shown = serde_json::to_value(blind).unwrap();
        let failure = &shown["failed_backends"]["192.0.2.100:80/TCP"]["192.0.2.31:30080"];
        let expected =
            serde_json::json!({"reason": "refused", "why": "it refused a connection", "seconds": 0});
        assert_eq!((failure, &shown["ready"]), (&expected, &true.into()));
        assert_eq!(Report::default().after(&before).failed_backends, FailedBackends::new());
    }
}
