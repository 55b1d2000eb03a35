// SPDX-License-Identifier: Apache-2.0
//! The task that compares each report with the one before.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::history::SharedHistory;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::reconcile::Report;

/// Between two looks. What begins and ends within this time is not told: a busy loop must not wait for a comparison of
/// thousands of frontends after each round.
const PACE: Duration = Duration::from_millis(100);

/// Keeps what changes, until the loop ends.
pub fn follow(mut reports: watch::Receiver<Arc<Report>>) -> SharedHistory {
    let history = SharedHistory::starting(time_of_day());
    let written = history.clone();
    tokio::spawn(async move {
        let mut before = Arc::new(Report::default());
        loop {
            let after = Arc::clone(&reports.borrow_and_update());
            let (old, new, written) = (before, Arc::clone(&after), written.clone());
            let compared = tokio::task::spawn_blocking(move || {
                let now = clock::now_std();
                let age = |since| {
                    let age = now.saturating_duration_since(since);
                    SignedDuration::try_from(age).unwrap_or(SignedDuration::ZERO)
                };
                written.follow(&old, &new, time_of_day(), age);
            });
            if let Err(error) = compared.await {
                tracing::error!(error = %ErrorChain(&error), "cannot tell what has changed");
            }
            before = after;
            tokio::time::sleep(PACE).await;
            if reports.changed().await.is_err() {
                return;
            }
        }
    });
    history
}

/// To the millisecond: nobody reads more digits.
fn time_of_day() -> Timestamp {
    let now = Timestamp::try_from(clock::time_of_day()).unwrap_or_default();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
