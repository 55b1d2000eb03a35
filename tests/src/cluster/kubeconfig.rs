// SPDX-License-Identifier: Apache-2.0
//! Kubeconfig files: JSON, which is also YAML, with embedded certificates, as users usually get them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

/// The name of the only context, of its cluster and of its user.
pub const CONTEXT: &str = "llb-test";

/// Writes `folder/name.kubeconfig` for the user with this token.
pub(super) fn write(
    folder: &Path,
    name: &str,
    server: &str,
    authority: &Path,
    token: &str,
) -> Result<PathBuf> {
    let pem = fs::read(authority).with_context(|| format!("read {}", authority.display()))?;
    let file = folder.join(format!("{name}.kubeconfig"));
    let text = serde_json::to_string_pretty(&content(server, pem, token))?;
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

fn content(server: &str, authority: Vec<u8>, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": server, "certificate-authority-data": ByteString(authority)}}],
        "users": [{"name": CONTEXT, "user": {"token": token}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    })
}
