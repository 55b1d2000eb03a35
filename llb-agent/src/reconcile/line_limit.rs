// SPDX-License-Identifier: Apache-2.0
//! How many lines of one kind the log gets, whatever tenants do. Pure; the clock is an argument.

use std::time::{Duration, Instant};

/// The most lines in one [`WINDOW`].
pub(super) const LINES: u32 = 100;
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Lines that were written lately.
#[derive(Debug, Default)]
pub(super) struct LineLimit {
    /// When the window began, and how many lines it has had.
    window: Option<(Instant, u32)>,
}

impl LineLimit {
    /// Keeps as many of `lines` as the log may get now. `full` is the last line of a window that had more.
    pub(super) fn keep<L>(&mut self, mut lines: Vec<L>, full: L, now: Instant) -> Vec<L> {
        let (began, mut count) = match self.window {
            Some((began, count)) if now.saturating_duration_since(began) < WINDOW => (began, count),
            _ => (now, 0),
        };
        let room = usize::try_from(LINES.saturating_sub(count)).unwrap_or(usize::MAX);
        let is_over = lines.len() > room;
        lines.truncate(room);
        count = count.saturating_add(u32::try_from(lines.len()).unwrap_or(u32::MAX));
        if is_over && count == LINES {
            lines.push(full);
            count += 1;
        }
        self.window = Some((began, count));
        lines
    }
}
