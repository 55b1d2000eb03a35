// SPDX-License-Identifier: Apache-2.0
//! Log lines and the metric registry. Not: what is counted (each room declares
//! its own).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Log lines on standard error: for a person on a terminal, JSON otherwise.
/// `filter` as in `RUST_LOG`; one that makes no sense is reported and ignored.
pub fn init_logs(filter: Option<&str>) {
    // What fails at the Kubernetes API is told by `source`, once and with the way out.
    const DEFAULT: &str = "info,kube_runtime=error";
    let parsed = EnvFilter::try_new(filter.unwrap_or(DEFAULT));
    let wrong = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.with_target(false).init();
    } else {
        logs.json().flatten_event(true).with_target(false).init();
    }
    if let Some(error) = wrong {
        tracing::warn!(error, "RUST_LOG is no filter; using {DEFAULT}");
    }
}
