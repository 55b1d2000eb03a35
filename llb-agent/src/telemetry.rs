// SPDX-License-Identifier: Apache-2.0
//! How log lines are written, filtered and limited. Metrics are declared where they are counted.

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use crate::clock;

/// The most lines of one place in the code within one [`WINDOW`], whatever tenants and clients do. Lines of
/// the levels debug and trace have no limit: whoever asks for them wants all.
const LINES: u32 = 100;
const WINDOW: Duration = Duration::from_secs(60);

/// The filter if none is given. `source` itself logs failures of the Kubernetes API, once and with advice. The client's
/// crates would add a line for each, and the whole body of a wrong answer.
pub const DEFAULT_FILTER: &str = "info,kube_runtime=error,kube_client=off,rustls_platform_verifier=off";

/// Checks a filter.
///
/// # Errors
/// It has not the form of `RUST_LOG`.
pub fn parse_filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            Err(format!("{error}; use error, warn, info, debug or trace, or a filter as in RUST_LOG"))
        }
    }
}

/// Writes log lines to standard error: text on a terminal, JSON otherwise.
/// `filter` has the form of `RUST_LOG`. One that can't be parsed is reported and ignored.
pub fn init_logs(filter: Option<&str>) {
    let parsed = EnvFilter::try_new(filter.unwrap_or(DEFAULT_FILTER));
    let invalid = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        const LAST: &str = "(no more lines like the one above within a minute)";
        let logs = logs.with_target(false).map_event_format(|format| Limited::new(format, LAST));
        let logs = logs.with_filter_reloading();
        keep(logs.reload_handle());
        logs.init();
    } else {
        const LAST: &str = r#"{"level":"INFO","message":"no more lines like the one above within a minute"}"#;
        let logs = logs.json().flatten_event(true).with_target(false);
        let logs = logs.map_event_format(|format| Limited::new(format, LAST)).with_filter_reloading();
        keep(logs.reload_handle());
        logs.init();
    }
    if let Some(error) = invalid {
        tracing::warn!(error, "RUST_LOG is not a valid filter; using {DEFAULT_FILTER}");
    }
}

/// Exchanges the filter of the running process.
type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Logs are set up once in a process, so nothing is lost if there is a handle already.
fn keep<S: 'static>(handle: reload::Handle<EnvFilter, S>) {
    let _ = SET_FILTER.set(Box::new(move |filter| handle.reload(filter)));
}

/// From now on lines are filtered by `filter`. Without logs it does nothing.
pub fn set_filter(filter: &str) {
    let Some(set) = SET_FILTER.get() else { return };
    let outcome = EnvFilter::try_new(filter).map_err(|error| error.to_string());
    let outcome = outcome.and_then(|filter| set(filter).map_err(|error| error.to_string()));
    if let Err(error) = outcome {
        tracing::warn!(error, filter, "cannot use this filter of log lines; the old one stays");
    }
}

/// Leaves out lines of places that have had too many.
struct Limited<F> {
    format: F,
    /// Written after the last line of a window.
    last: &'static str,
    places: Mutex<HashMap<Identifier, Window>>,
}

impl<F> Limited<F> {
    fn new(format: F, last: &'static str) -> Self {
        Self { format, last, places: Mutex::default() }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let is_limited = *event.metadata().level() <= Level::INFO;
        let line = if is_limited {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.entry(event.metadata().callsite()).or_default().next(clock::now_std())
        } else {
            Line::Shown
        };
        match line {
            Line::Shown => self.format.format_event(context, writer, event),
            Line::Last => {
                self.format.format_event(context, writer.by_ref(), event)?;
                writeln!(writer, "{}", self.last)
            }
            Line::LeftOut => Ok(()),
        }
    }
}

/// What happens to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Shown,
    /// It is shown, and it is said that no more follow.
    Last,
    LeftOut,
}

/// The lines of one place.
#[derive(Default)]
struct Window {
    /// When the first line of the window came.
    began: Option<Instant>,
    count: u32,
}

impl Window {
    /// One more line, at `now`.
    fn next(&mut self, now: Instant) -> Line {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            *self = Self { began: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        match self.count {
            ..LINES => Line::Shown,
            LINES => Line::Last,
            _ => Line::LeftOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_bounded_number_of_lines_in_a_minute() {
        let (mut window, start) = (Window::default(), clock::now_std());
        let mut next = |after: Duration| window.next(start + after);
        let shown = (0..1_000_000).filter(|_| next(Duration::from_secs(1)) != Line::LeftOut).count();
        assert_eq!(shown, LINES as usize);
        assert_eq!(next(WINDOW), Line::LeftOut);
        assert_eq!(next(WINDOW + Duration::from_secs(1)), Line::Shown);
        let lines: Vec<Line> = (1..LINES).map(|_| next(WINDOW * 2)).collect();
        assert_eq!(lines.last(), Some(&Line::Last), "the last line says that no more follow");
    }
}
