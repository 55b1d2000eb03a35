// SPDX-License-Identifier: Apache-2.0
//! The real helm, and llb's chart. `cargo xtask test` builds helm once per machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::environment;
use crate::lab::Host;

/// The version that `tests/cluster-binaries/helm` builds, which is also in the name of its folder in the cache.
pub const HELM_VERSION: &str = "4.3.2";

/// The folder of `deploy/`.
pub fn deploy_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Runs helm on `host` with the rights of `kubeconfig`, and returns its standard output. Its files are in the lab's folder.
pub(super) fn run(host: &Host, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = host.command(program()?);
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, host.directory().join(variable.to_lowercase()));
    }
    let output =
        command.env("KUBECONFIG", kubeconfig).args(arguments).output().context("cannot start helm")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let (said, shown) = (text(&output.stderr), text(&output.stdout));
        bail!("helm {}: {}: {said} {shown}", arguments.join(" "), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn program() -> Result<PathBuf> {
    let file =
        environment::cache_folder().map(|cache| cache.join(format!("llb/tools/helm-{HELM_VERSION}/helm")));
    let hint = || {
        format!("there is no helm {HELM_VERSION} in ~/.cache/llb/tools: `cargo xtask test` builds it once")
    };
    file.filter(|file| file.is_file()).with_context(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_built() {
        let module = include_str!("../../cluster-binaries/helm/go.mod");
        assert!(module.contains(&format!("helm.sh/helm/v4 v{HELM_VERSION} ")), "{HELM_VERSION}");
    }
}
