// SPDX-License-Identifier: Apache-2.0
//! Finds the programs of the cluster. `cargo xtask test` builds them.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::environment;

/// The version that `tests/cluster-binaries` builds, which is also the name of the folder in the cache.
pub const KUBERNETES_VERSION: &str = "1.36.2";

/// The programs of a control plane, its nodes and its user.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// etcd, version 3.4 or later.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// kube-controller-manager.
    pub controller_manager: PathBuf,
    /// kube-proxy.
    pub proxy: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
}

impl Binaries {
    /// Looks in `KUBEBUILDER_ASSETS` (the envtest convention) when it is set,
    /// then in the cache that `cargo xtask test` fills, then in `PATH`.
    ///
    /// # Errors
    /// A program is in none of them; the error says how to get it.
    pub fn find() -> Result<Self> {
        let folders = folders();
        Ok(Self {
            etcd: find("etcd", &folders)?,
            apiserver: find("kube-apiserver", &folders)?,
            controller_manager: find("kube-controller-manager", &folders)?,
            proxy: find("kube-proxy", &folders)?,
            kubectl: find("kubectl", &folders)?,
        })
    }
}

/// A program that only the conformance tests need; see [`Binaries::find`].
///
/// # Errors
/// As for [`Binaries::find`].
pub fn program(name: &str) -> Result<PathBuf> {
    find(name, &folders())
}

fn folders() -> Vec<PathBuf> {
    let cache = environment::cache_folder().map(|cache| cache.join("llb/envtest").join(KUBERNETES_VERSION));
    environment::kubebuilder_assets().into_iter().chain(cache).chain(environment::program_folders()).collect()
}

fn find(program: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    folders.iter().map(|folder| folder.join(program)).find(|file| file.is_file()).with_context(|| {
        let hint = match program {
            "etcd" => "install it (Debian: etcd-server)",
            "e2e.test" | "agnhost" => "`cargo xtask test --only conformance` builds it once",
            _ => "`cargo xtask test` builds it once",
        };
        format!(
            "{program} is neither in KUBEBUILDER_ASSETS nor in ~/.cache/llb/envtest/{KUBERNETES_VERSION} nor in PATH: {hint}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_cluster_binaries_builds() {
        let module = include_str!("../../cluster-binaries/go.mod");
        assert!(module.contains(&format!("k8s.io/kubernetes v{KUBERNETES_VERSION}\n")));
    }

    #[test]
    fn the_first_folder_wins_and_the_error_says_how_to_get_a_program() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(first.path().join("etcd"), "").unwrap();
        std::fs::write(second.path().join("etcd"), "").unwrap();
        let folders = [first.path().to_owned(), second.path().to_owned()];

        assert_eq!(find("etcd", &folders).unwrap(), first.path().join("etcd"));
        let error = find("kube-proxy", &folders).unwrap_err().to_string();
        assert!(error.contains("cargo xtask test"), "{error}");
    }
}
