// SPDX-License-Identifier: Apache-2.0
//! The list of all crates in the binary (SBOM), in the format CycloneDX, with their licences and hashes.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::binary::PROGRAM;
use super::crates::{self, Crate};
use super::files::Files;
use super::folders;
use super::revision::VERSION;

/// Writes the list for the binary of one architecture.
///
/// # Errors
/// Cargo can't list the crates, or the file can't be written.
pub(super) fn write(files: &Files<'_>) -> Result<()> {
    let triple = files.architecture.triple();
    let (agent, others): (Vec<Crate>, Vec<Crate>) =
        crates::linked(files.architecture)?.into_iter().partition(|one| one.name == PROGRAM);
    let agent = agent.first().with_context(|| format!("cargo names no {PROGRAM}"))?;
    let sums = crates::checksums()?;
    let library = |one: &Crate| {
        let mut component = component(one, "library");
        if let Some(sum) = sums.get(&(one.name.clone(), one.version.clone())) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        component
    };
    let sbom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(agent, "application") },
        "components": others.iter().map(library).collect::<Vec<_>>(),
    });
    let name = format!("llb-{VERSION}-{triple}.cdx.json");
    fs::write(folders::shipped().join(&name), format!("{sbom:#}\n"))
        .with_context(|| format!("cannot write {name}"))
}

fn component(one: &Crate, kind: &str) -> Value {
    let purl = format!("pkg:cargo/{}@{}", one.name, one.version);
    json!({
        "type": kind,
        "bom-ref": purl,
        "name": one.name,
        "version": one.version,
        "purl": purl,
        "licenses": [{ "expression": one.license.replace('/', " OR ") }],
    })
}
