// SPDX-License-Identifier: Apache-2.0
//! Provides helm for the cluster tests: builds it once per machine from its published Go module, which
//! tests/cluster-binaries/helm pins. (Kubernetes has another module, because helm wants other versions of its packages.)

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The module of helm.
const MODULE: &str = "helm.sh/helm/v4";

/// Makes sure that the cluster tests find the pinned helm.
///
/// # Errors
/// It can't be built.
pub(crate) fn provide() -> Result<()> {
    let folder = shell::workspace().join("tests/cluster-binaries/helm");
    let go_mod = fs::read_to_string(folder.join("go.mod")).context("cannot read go.mod of helm")?;
    let version = version(&go_mod).with_context(|| format!("go.mod requires no {MODULE}"))?;
    let place = shell::cache()?.join(format!("tools/helm-{}", version.trim_start_matches('v')));
    let program = place.join("helm");
    if program.is_file() {
        return Ok(());
    }
    if shell::find("go").is_none() {
        bail!("missing: helm {version} for the cluster tests; install Go (https://go.dev/dl) to build it");
    }
    println!("helm {version} is built once per machine, some minutes");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    // The program gets its name only when it is complete, so a broken build counts as missing.
    let part = place.join(".helm.part");
    let flags = format!("-s -w -X {MODULE}/internal/version.version={version}");
    let mut go = shell::command("go");
    go.current_dir(&folder).env("CGO_ENABLED", "0");
    go.args(["build", "-p", "2", "-mod=readonly", "-trimpath", "-ldflags", &flags, "-o"]).arg(&part);
    shell::run(go.arg(format!("{MODULE}/cmd/helm")))?;
    fs::rename(&part, &program).with_context(|| format!("cannot name {}", part.display()))
}

fn version(go_mod: &str) -> Option<&str> {
    let lines = go_mod.lines().map(|line| line.trim().trim_start_matches("require "));
    lines
        .filter_map(|line| line.strip_prefix(MODULE)?.strip_prefix(' '))
        .find_map(|rest| rest.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn the_version_comes_from_go_mod() {
        let go_mod = "module x\n\ntool helm.sh/helm/v4/cmd/helm\n\nrequire helm.sh/helm/v4 v4.1.0\n";
        assert_eq!(version(go_mod), Some("v4.1.0"));
        assert_eq!(version("require (\n\thelm.sh/helm/v4 v4.2.0 // indirect\n)\n"), Some("v4.2.0"));
        assert_eq!(version("module x\n"), None);
    }
}
