// SPDX-License-Identifier: Apache-2.0
//! The list of crates (SBOM), compared with what the debug information says about the code in the binary. Cargo, which wrote
//! the list, is not asked.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::shipped::{VERSION, file_of_target, unpacked};

/// How the source files of crates are called in debug information: behind it come registry, crate and version.
const REGISTRY: &str = "/cargo/registry/src/";

fn sbom() -> Value {
    serde_json::from_str(&fs::read_to_string(file_of_target(".cdx.json")).unwrap()).unwrap()
}

/// All crates with code in the binary, as `name-version`.
fn crates_in_the_binary() -> BTreeSet<String> {
    let place = unpacked(&file_of_target("-debug.tar.gz"));
    let debug = fs::read(place.path().join("llb-agent.debug")).unwrap();
    let starts =
        debug.windows(REGISTRY.len()).enumerate().filter(|(_, window)| *window == REGISTRY.as_bytes());
    let name = |at: usize| {
        let rest = debug[at + REGISTRY.len()..].split(|byte| *byte == 0).next()?;
        let mut parts = std::str::from_utf8(rest).ok()?.split('/').skip(1);
        parts.next().map(str::to_owned)
    };
    starts.filter_map(|(at, _)| name(at)).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_crate_of_the_binary_is_listed() {
    let sbom = sbom();
    let components = sbom["components"].as_array().unwrap();
    let listed: BTreeSet<String> = components
        .iter()
        .map(|component| {
            format!("{}-{}", component["name"].as_str().unwrap(), component["version"].as_str().unwrap())
        })
        .collect();
    let found = crates_in_the_binary();
    assert!(found.len() > 50, "the debug information names few crates: {found:?}");
    let missing: Vec<_> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "in the binary and not listed: {missing:?}");
    assert!(listed.contains(&format!("llb-common-{VERSION}")), "{listed:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_list_is_about_this_version_and_names_licences() {
    let sbom = sbom();
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    let subject = &sbom["metadata"]["component"];
    assert_eq!((subject["name"].as_str(), subject["version"].as_str()), (Some("llb-agent"), Some(VERSION)));
    for component in sbom["components"].as_array().unwrap() {
        assert!(component["licenses"][0].is_object(), "no licence: {component}");
        assert!(component["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:cargo/")), "{component}");
    }
    let text = sbom.to_string();
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    assert!(!text.contains(workspace.to_str().unwrap()), "it names a folder of this machine");
}
