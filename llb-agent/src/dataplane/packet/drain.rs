// SPDX-License-Identifier: Apache-2.0
//! How long the flows of a closed frontend may go on.

use tokio::time::Instant;

/// When a frontend that takes no new flows is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// When its last flow has ended, and at this time at the latest.
    Until(Instant),
    /// When its last flow has ended, however long that takes.
    UntilLastFlow,
}

impl Drain {
    /// Whether flows that are still open have had their time.
    pub(super) fn is_over(self, now: Instant) -> bool {
        match self {
            Self::Until(end) => end <= now,
            Self::UntilLastFlow => false,
        }
    }

    /// Whether this drain ends no later than `other`.
    pub(super) fn is_within(self, other: Self) -> bool {
        match (self, other) {
            (_, Self::UntilLastFlow) => true,
            (Self::UntilLastFlow, Self::Until(_)) => false,
            (Self::Until(this), Self::Until(other)) => this <= other,
        }
    }

    /// Whether there is a time limit, so that it is worth to look often.
    pub(super) fn is_limited(self) -> bool {
        matches!(self, Self::Until(_))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[test]
    fn a_limited_drain_is_within_an_unlimited_one() {
        let now = clock::now();
        let (soon, late) = (Drain::Until(now), Drain::Until(now + Duration::from_secs(1)));
        assert!(soon.is_within(late) && !late.is_within(soon) && soon.is_within(soon));
        assert!(late.is_within(Drain::UntilLastFlow) && !Drain::UntilLastFlow.is_within(late));
        assert!(soon.is_over(now) && !late.is_over(now) && !Drain::UntilLastFlow.is_over(now));
    }
}
