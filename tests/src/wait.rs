// SPDX-License-Identifier: Apache-2.0
//! Waiting for a condition, with a limit. Nothing else in the tests sleeps to wait for something.

#![expect(clippy::disallowed_methods, reason = "tests wait and measure by the real clock")]

use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};

/// Short next to every limit in use, long next to the price of a poll.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polls until `poll` answers `Ok(Some(value))`. `Ok(None)` means "not yet";
/// `Err` means the same and says what was seen instead, for the message.
///
/// # Errors
/// `limit` has passed; the error says what was waited for and what was seen last.
pub fn wait_until<T>(limit: Duration, what: &str, poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    poll_until(limit, what, poll, |_| POLL_INTERVAL)
}

/// Like [`wait_until`], with polls that begin every `interval`, for a caller that measures when the condition holds.
///
/// # Errors
/// As [`wait_until`].
pub fn wait_until_at<T>(
    interval: Duration,
    limit: Duration,
    what: &str,
    poll: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    poll_until(limit, what, poll, |took| interval.saturating_sub(took))
}

/// `pause_after` says how long to sleep after a poll, from how long that took.
fn poll_until<T>(
    limit: Duration,
    what: &str,
    mut poll: impl FnMut() -> Result<Option<T>>,
    pause_after: impl Fn(Duration) -> Duration,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let polled = Instant::now();
        let last_seen = match poll() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() >= limit {
            return Err(too_late(limit, what, last_seen));
        }
        pause(pause_after(polled.elapsed()));
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
        pause(POLL_INTERVAL);
    }
}

/// Like [`wait_until`], for a condition that only a future can look at.
///
/// # Errors
/// As [`wait_until`].
pub async fn wait_until_async<T>(
    limit: Duration,
    what: &str,
    mut poll: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let last_seen = match poll().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() >= limit {
            return Err(too_late(limit, what, last_seen));
        }
        pause_async().await;
    }
}

/// Repeats `work` until something else ends this future.
pub async fn repeat(mut work: impl AsyncFnMut()) -> ! {
    loop {
        work().await;
        pause_async().await;
    }
}

fn too_late(limit: Duration, what: &str, last_seen: Option<Error>) -> Error {
    match last_seen {
        Some(error) => error.context(format!("waited {limit:?} for {what}; last seen")),
        None => anyhow!("waited {limit:?} for {what}"),
    }
}

async fn pause_async() {
    tokio::time::sleep(POLL_INTERVAL).await;
}

#[expect(clippy::disallowed_methods, reason = "the pause between two polls of a condition with a limit")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

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
