// SPDX-License-Identifier: Apache-2.0
//! Waiting for a condition with a limit: the one place in the tests where a
//! thread sleeps.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

/// Short next to every limit in use, long next to the price of a poll.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polls until `poll` answers `Ok(Some(value))`. `Ok(None)` means "not yet";
/// `Err` means the same and says what was seen instead, for the message.
///
/// # Errors
/// `limit` has passed; the error says what was waited for and what was seen last.
pub fn wait_until<T>(limit: Duration, what: &str, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        let last_seen = match poll() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() >= limit {
            match last_seen {
                Some(error) => return Err(error.context(format!("waited {limit:?} for {what}; last seen"))),
                None => bail!("waited {limit:?} for {what}"),
            }
        }
        pause();
    }
}

/// Like [`wait_until`] for a plain yes or no.
///
/// # Errors
/// As [`wait_until`].
pub fn wait_for(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    wait_until(limit, what, || Ok(holds().then_some(())))
}

/// Checks that `holds` stays true for all of `span`. For what must *not*
/// happen there is no condition to wait for.
///
/// # Errors
/// It did not hold at some moment; the error carries what `holds` saw.
pub fn holds_throughout(span: Duration, what: &str, mut holds: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    loop {
        holds().map_err(|error| {
            anyhow!("{what} did not hold for {span:?}, only for {:?}: {error:#}", started.elapsed())
        })?;
        if started.elapsed() >= span {
            return Ok(());
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "the pause between two polls of a condition with a limit")]
fn pause() {
    std::thread::sleep(POLL_INTERVAL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_was_waited_for_and_what_was_seen() {
        let error = wait_until::<()>(Duration::ZERO, "the moon", || bail!("a cloud")).unwrap_err();
        assert_eq!(format!("{error:#}"), "waited 0ns for the moon; last seen: a cloud");
    }

    #[test]
    fn polls_until_the_condition_holds() {
        let mut rounds = 0;
        wait_for(Duration::from_secs(5), "three rounds", || {
            rounds += 1;
            rounds == 3
        })
        .unwrap();
        assert_eq!(rounds, 3);
    }
}
