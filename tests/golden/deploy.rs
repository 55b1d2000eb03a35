// SPDX-License-Identifier: Apache-2.0
//! Files in `deploy/` that follow from something else: the rights in a cluster from the list in the code, and the
//! table of the Helm chart's values from their schema. With `LLB_BLESS` they are written anew. Whether an API server
//! takes the objects is not tested here, but in tests/cluster.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use llb_agent::config::{Cli, Invocation};
use llb_agent::rbac;
use llb_tests::environment::blesses_golden_cases;
use serde_json::Value;

const LICENSE: &str = "# SPDX-License-Identifier: Apache-2.0\n";

/// The same text, for two kinds of users.
const RIGHTS: [&str; 2] = ["llb-agent/deploy/rbac.yaml", "deploy/kustomize/rbac/rbac.yaml"];

/// The right to read the ConfigMap with pools.
const POOL_RIGHTS: &str = "deploy/kustomize/config-map/rbac.yaml";

const CHART: &str = "deploy/helm/llb";

/// What is around the table in the chart's README.
const TABLE: [&str; 2] = ["<!-- values -->\n", "<!-- end of values -->\n"];

#[test]
fn the_rights_are_those_of_the_list() {
    let manifest = |flags: &[&str]| {
        let words = [&["llb-agent", "rbac"], flags].concat();
        let Invocation::Rbac(grant) = Cli::of(&words).unwrap() else { panic!("another invocation") };
        rbac::manifest(&grant)
    };
    let all = manifest(&[]);
    for path in RIGHTS {
        compare(&file(path), &format!("{LICENSE}{all}"));
    }
    let with_pools = manifest(&["--config-map", "llb/pools"]);
    compare(&file(POOL_RIGHTS), &format!("{LICENSE}{}", with_pools.strip_prefix(&all).unwrap()));
}

#[test]
fn the_readme_of_the_chart_has_all_values() {
    let schema = read_schema();
    let mut table = "| value | default | |\n|---|---|---|\n".to_owned();
    for (name, value) in leaves("", &schema) {
        let (default, description) = (&value["default"], value["description"].as_str().unwrap());
        writeln!(table, "| `{name}` | `{default}` | {} |", description.replace('|', "\\|")).unwrap();
    }
    let path = file(CHART).join("README.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(TABLE[0]).unwrap();
    let (_, after) = rest.split_once(TABLE[1]).unwrap();
    compare(&path, &[before, TABLE[0], &table, TABLE[1], after].concat());
}

#[test]
fn the_values_are_the_defaults_of_the_schema() {
    let text = fs::read_to_string(file(CHART).join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(values, defaults(&read_schema()));
}

#[test]
fn the_chart_has_the_version_of_the_agent() {
    let text = fs::read_to_string(file(CHART).join("Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&text).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!([&chart["version"], &chart["appVersion"]], [version, version]);
    let daemon_set = fs::read_to_string(file("deploy/kustomize/base/daemonset.yaml")).unwrap();
    assert!(daemon_set.contains(&format!("image: llb:{version}\n")));
}

fn read_schema() -> Value {
    serde_json::from_str(&fs::read_to_string(file(CHART).join("values.schema.json")).unwrap()).unwrap()
}

/// All values that have no values inside of them, with their whole names.
fn leaves<'a>(prefix: &str, schema: &'a Value) -> Vec<(String, &'a Value)> {
    let properties = schema["properties"].as_object().unwrap();
    let inside = properties.iter().flat_map(|(name, value)| {
        let name = format!("{prefix}{name}");
        match value["properties"].is_object() {
            true => leaves(&format!("{name}."), value),
            false => vec![(name, value)],
        }
    });
    inside.collect()
}

fn defaults(schema: &Value) -> Value {
    match schema["properties"].as_object() {
        Some(inside) => inside.iter().map(|(name, value)| (name.clone(), defaults(value))).collect(),
        None => schema["default"].clone(),
    }
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn compare(path: &Path, text: &str) {
    if blesses_golden_cases() {
        fs::write(path, text).unwrap();
    }
    let found = fs::read_to_string(path).unwrap();
    let hint = "LLB_BLESS=1 cargo test -p llb-tests --test golden";
    assert!(found == text, "{} is not what it follows from; write it anew: {hint}", path.display());
}
