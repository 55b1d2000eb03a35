// SPDX-License-Identifier: Apache-2.0
//! Environment variables: the one place that reads them.

use std::path::PathBuf;

/// `$KUBECONFIG`, if it is set and not empty. The kube crate reads it itself; this is
/// for error messages only.
pub fn kubeconfig_variable() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var("KUBECONFIG").ok().filter(|path| !path.is_empty())
}

/// The variables that take the place of a flag.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    /// `$KUBECONFIG`
    pub(super) kubeconfig: Option<String>,
    /// `$RUST_LOG`
    pub(super) log: Option<String>,
}

impl Environment {
    pub(super) fn read() -> Self {
        Self { kubeconfig: kubeconfig_variable(), log: log_filter() }
    }
}

/// Whether `$KUBERNETES_SERVICE_HOST` is set, which a kubelet does for every container.
pub(super) fn is_in_pod() -> bool {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty())
}

/// The folder that systemd made for the runtime files of this service (`RuntimeDirectory=`).
pub fn runtime_directory() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    first_folder(&std::env::var("RUNTIME_DIRECTORY").ok()?)
}

/// There can be several, separated by colons.
fn first_folder(folders: &str) -> Option<PathBuf> {
    folders.split(':').next().filter(|folder| folder.starts_with('/')).map(PathBuf::from)
}

/// Whether a service manager waits for messages (`$NOTIFY_SOCKET`, sd_notify(3)).
pub fn has_service_manager() -> bool {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// `RUST_LOG`, the filter of log lines.
pub fn log_filter() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var("RUST_LOG").ok()
}

/// `$PATH`, for error messages only.
pub fn search_path() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var("PATH").ok()
}

/// `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, or their lower-case forms; empty if they are not set.
pub fn proxy_variables() -> (String, String, String) {
    (
        first_of(["HTTPS_PROXY", "https_proxy"]),
        first_of(["HTTP_PROXY", "http_proxy"]),
        first_of(["NO_PROXY", "no_proxy"]),
    )
}

fn first_of(names: [&str; 2]) -> String {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let mut values = names.into_iter().filter_map(|name| std::env::var(name).ok());
    values.find(|value| !value.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_folders_counts() {
        assert_eq!(first_folder("/run/llb"), Some("/run/llb".into()));
        assert_eq!(first_folder("/run/a:/run/b"), Some("/run/a".into()));
        assert_eq!((first_folder(""), first_folder("llb")), (None, None));
    }
}
