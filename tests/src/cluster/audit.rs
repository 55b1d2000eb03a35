// SPDX-License-Identifier: Apache-2.0
//! What was written to the API server, and by whom: its own audit log. Reads are not in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// One write that the API server has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// `create`, `update`, `patch`.
    pub verb: String,
    /// As in `services/status`.
    pub resource: String,
    /// The name of the object; empty if the API server made it.
    pub name: String,
    /// Who wrote, as in `system:serviceaccount:llb:llb-agent`.
    pub user: String,
}

/// Writes the policy: writes of what load balancers write, without their content.
pub(super) fn write_policy(folder: &Path) -> Result<()> {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {
                "level": "Metadata",
                "verbs": ["create", "update", "patch"],
                "resources": [
                    {"group": "", "resources": ["services", "services/status", "events"]},
                    {"group": "events.k8s.io", "resources": ["events"]},
                ],
            },
            {"level": "None"},
        ],
    });
    let file = policy_file(folder);
    fs::write(&file, policy.to_string()).with_context(|| format!("write {}", file.display()))
}

pub(super) fn policy_file(folder: &Path) -> PathBuf {
    folder.join("audit-policy.json")
}

pub(super) fn log_file(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

/// The writes to objects of a namespace that were not refused, in order.
pub(super) fn writes_in(folder: &Path, namespace: &str) -> Result<Vec<Write>> {
    let file = log_file(folder);
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    // The last line may be half written.
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let done = lines.filter(|entry| entry["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300));
    let inside = done.filter(|entry| entry["objectRef"]["namespace"] == namespace);
    Ok(inside.map(|entry| write_of(&entry)).collect())
}

fn write_of(entry: &Value) -> Write {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &entry["objectRef"];
    let resource = match object["subresource"].as_str() {
        Some(part) => format!("{}/{part}", text(&object["resource"])),
        None => text(&object["resource"]),
    };
    Write {
        verb: text(&entry["verb"]),
        resource,
        name: text(&object["name"]),
        user: text(&entry["user"]["username"]),
    }
}
