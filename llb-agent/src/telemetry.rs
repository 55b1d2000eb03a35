// SPDX-License-Identifier: Apache-2.0
//! How log lines are written and filtered. Metrics are declared where they are counted.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Writes log lines to standard error: text on a terminal, JSON otherwise.
/// `filter` has the form of `RUST_LOG`. One that can't be parsed is reported and ignored.
pub fn init_logs(filter: Option<&str>) {
    // `source` itself logs failures of the Kubernetes API, once and with advice. The client's
    // crates would add a line for each, and the whole body of a wrong answer.
    const DEFAULT: &str = "info,kube_runtime=error,kube_client=off,rustls_platform_verifier=off";
    let parsed = EnvFilter::try_new(filter.unwrap_or(DEFAULT));
    let invalid = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.with_target(false).init();
    } else {
        logs.json().flatten_event(true).with_target(false).init();
    }
    if let Some(error) = invalid {
        tracing::warn!(error, "RUST_LOG is not a valid filter; using {DEFAULT}");
    }
}
