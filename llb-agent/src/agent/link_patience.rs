// SPDX-License-Identifier: Apache-2.0
//! How long a start waits for a link that goes away while it is given its program. Pure; the time is an argument.

use tokio::time::Instant;

use super::preconditions::LINK_LIMIT;

/// How often a link may go away while it is given its program. One try may take ten seconds on a slow machine, most of it
/// for the kernel's look at the programs.
const TRIES: u32 = 10;

/// What a start has seen of a link.
#[derive(Debug, Default)]
pub(super) struct LinkPatience {
    tries: u32,
    /// Since when the link is known to be away.
    since: Option<Instant>,
}

impl LinkPatience {
    /// Whether to try again after a failure. `is_missing`: the link was not there when the try began. Otherwise it went
    /// away during the try, however long that took.
    pub(super) fn goes_on(&mut self, is_missing: bool, now: Instant) -> bool {
        if !is_missing {
            self.tries += 1;
            self.since = None;
        }
        let since = *self.since.get_or_insert(now);
        self.tries <= TRIES && now - since < LINK_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[test]
    fn a_slow_try_does_not_use_up_the_time_to_wait() {
        let (mut patience, start) = (LinkPatience::default(), clock::now());
        let at = |secs| start + Duration::from_secs(secs);
        assert!(patience.goes_on(false, at(60)), "the link went away at the end of a long try");
        assert!(patience.goes_on(true, at(64)));
        assert!(patience.goes_on(false, at(90)), "it was back, and went away again");
        assert!(!patience.goes_on(true, at(95)), "it stays away");
    }

    #[test]
    fn a_link_that_never_stays_is_given_up() {
        let (mut patience, now) = (LinkPatience::default(), clock::now());
        assert_eq!((0..20).filter(|_| patience.goes_on(false, now)).count(), TRIES as usize);
    }
}
