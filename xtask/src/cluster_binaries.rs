// SPDX-License-Identifier: Apache-2.0
//! Provides the Kubernetes programs of the test cluster: finds them, or builds them once per machine from their
//! published Go modules (see tests/cluster-binaries).

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The programs to build; kubectl only if the system has none. etcd comes from the system.
const PROGRAMS: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kubectl"];

/// The server in the Pods of the tests of Kubernetes.
const AGNHOST: &str = "agnhost";

/// The tests of Kubernetes, which are a test program of Go.
const E2E_TEST: &str = "e2e.test";

/// Where Kubernetes keeps the version that its programs report.
const VERSION_PACKAGE: &str = "k8s.io/component-base/version";

/// Whether the user provides this program in the folder `KUBEBUILDER_ASSETS`, as is the convention of envtest. Such a
/// folder rarely has all of them.
pub(crate) fn is_given(program: &str) -> bool {
    shell::variable("KUBEBUILDER_ASSETS").is_some_and(|folder| Path::new(&folder).join(program).is_file())
}

/// Makes sure that the cluster tests find all programs: builds those that the user does not provide into the cache, if
/// they are not there yet.
///
/// # Errors
/// A program is missing and can't be built.
pub(crate) fn provide() -> Result<()> {
    let has_system = |program: &str| program == "kubectl" && shell::find(program).is_some();
    provide_all(PROGRAMS.into_iter().filter(|program| !has_system(program)), "about ten minutes")
}

/// The same for what only the conformance tests need: the tests of Kubernetes, and the server that runs in their Pods.
///
/// # Errors
/// As for [`provide`].
pub(crate) fn provide_conformance() -> Result<()> {
    provide_all([AGNHOST, E2E_TEST].into_iter(), "about a quarter of an hour")
}

fn provide_all(programs: impl Iterator<Item = &'static str>, duration: &str) -> Result<()> {
    let module = shell::workspace().join("tests/cluster-binaries");
    let go_mod =
        fs::read_to_string(module.join("go.mod")).context("cannot read tests/cluster-binaries/go.mod")?;
    let version =
        kubernetes_version(&go_mod).context("tests/cluster-binaries/go.mod requires no k8s.io/kubernetes")?;
    let folder = shell::cache()?.join("envtest").join(version.trim_start_matches('v'));
    let is_missing = |program: &&str| !is_given(program) && !folder.join(program).is_file();
    let missing: Vec<&str> = programs.filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if shell::find("go").is_none() {
        bail!(
            "missing: {} {version} for the cluster tests; either install Go (https://go.dev/dl) to build them, or \
             set KUBEBUILDER_ASSETS to a folder that has them",
            missing.join(", ")
        );
    }
    println!("{} {version} are built once per machine, {duration}", missing.join(", "));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    missing.into_iter().try_for_each(|program| build(&module, program, version, &folder))
}

fn build(module: &Path, program: &str, version: &str, folder: &Path) -> Result<()> {
    let part = folder.join(format!(".{program}.part"));
    let mut go = shell::command("go");
    go.current_dir(module).env("CGO_ENABLED", "0");
    let package = if program == E2E_TEST {
        go.args(["test", "-c", "-vet=off"]);
        "./e2e".to_owned()
    } else {
        go.arg("build");
        format!("./cmd/{program}")
    };
    // Two at a time: each compile of a big package takes 1 to 2 GB.
    go.args(["-p", "2", "-mod=readonly", "-trimpath", "-ldflags"]).arg(linker_flags(version));
    shell::run(go.arg("-o").arg(&part).arg(package))?;
    // The program gets its name only when it is complete, so a broken build counts as missing.
    fs::rename(&part, folder.join(program)).with_context(|| format!("cannot name {}", part.display()))
}

/// Without these flags the programs report v0.0.0, which clients refuse.
fn linker_flags(version: &str) -> String {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!(
        "-s -w -X {VERSION_PACKAGE}.gitVersion={version} -X {VERSION_PACKAGE}.gitMajor={major} \
         -X {VERSION_PACKAGE}.gitMinor={minor}"
    )
}

fn kubernetes_version(go_mod: &str) -> Option<&str> {
    let line = go_mod.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))?;
    line.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::{kubernetes_version, linker_flags};

    #[test]
    fn the_version_comes_from_go_mod() {
        let go_mod = "require (\n\tk8s.io/component-base v0.36.2\n\tk8s.io/kubernetes v1.36.2 // main\n)\n";
        assert_eq!(kubernetes_version(go_mod), Some("v1.36.2"));
        assert_eq!(kubernetes_version("module x\n"), None);
    }

    #[test]
    fn programs_report_their_version() {
        let flags = linker_flags("v1.36.2");
        assert!(flags.contains("version.gitVersion=v1.36.2 ") && flags.contains("gitMajor=1 "), "{flags}");
        assert!(flags.ends_with("gitMinor=36"), "{flags}");
    }
}
