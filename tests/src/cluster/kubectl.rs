// SPDX-License-Identifier: Apache-2.0
//! kubectl with an administrator's rights, run on the host of the control plane.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::Host;

#[derive(Debug)]
pub(super) struct Kubectl {
    host: Host,
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(super) fn new(host: Host, program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { host, program, kubeconfig }
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs a command to its end and returns its standard output; an error holds its standard error.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with_input(arguments, "")
    }

    /// As [`Kubectl::run`], with `input` as its standard input.
    pub(super) fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.output(arguments, input).with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// `kubectl apply` of `objects` (YAML or JSON) in `namespace`.
    pub(super) fn apply(&self, namespace: &str, objects: &str) -> Result<()> {
        self.run_with_input(&["--namespace", namespace, "apply", "-f", "-"], objects).map(drop)
    }

    /// Merges `status` into the object's status, as a kubelet would.
    pub(super) fn patch_status(&self, namespace: &str, object: &str, status: &Value) -> Result<()> {
        let status = status.to_string();
        let what = ["--namespace", namespace, "patch", object, "--subresource=status"];
        self.run(&[&what[..], &["--type=merge", "-p", &status]].concat()).map(drop)
    }

    fn output(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.host.command(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
