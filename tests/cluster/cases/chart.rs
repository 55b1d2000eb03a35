// SPDX-License-Identifier: Apache-2.0
//! What the Helm chart and the kustomizations render, and whether the API server takes it. That it works is in
//! `install.rs`.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use llb_tests::agent;
use llb_tests::cluster::{Cluster, deploy_folder};
use serde_json::{Value, json};

use crate::case::Case;

/// Rendered with the least and with all values.
const VALUES: [&str; 2] = ["least", "most"];

const SERVICE_MONITORS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: ServiceMonitor, plural: servicemonitors, singular: servicemonitor}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

/// Fields that the API does not know are errors here.
pub(crate) fn the_api_server_takes_what_the_chart_renders(case: &mut Case<'_>) -> Result<()> {
    case.cluster.apply("default", SERVICE_MONITORS)?;
    let definition = "crd/servicemonitors.monitoring.coreos.com";
    case.cluster.kubectl(&["wait", "--for=condition=established", definition, "--timeout=60s"])?;
    for namespace in ["crm", "shop"] {
        case.cluster.kubectl(&["create", "namespace", namespace])?;
    }
    for values in VALUES {
        let lint = case.cluster.helm(&["lint", "--strict", &chart(), "--values", &values_file(values)])?;
        ensure!(lint.contains("0 chart(s) failed"), "{lint}");
        let rendered = render(case.cluster, values, &[])?;
        let kinds = objects(&rendered)?.len();
        ensure!(kinds >= 7, "{kinds} objects");
        let has_monitor = rendered.contains("kind: ServiceMonitor");
        ensure!(has_monitor == rendered.contains("honorLabels: true"), "{rendered}");
        dry_run(case, &rendered)?;
    }
    for folder in ["base", "overlays/nodes", "overlays/outside", "overlays/config-map"] {
        dry_run(case, &kustomize(case, folder)?)?;
    }
    let nodes = kustomize(case, "overlays/nodes")?;
    let expected = ["image: registry.example.com/llb:0.1.0", "llb.dev/edge: \"\"", "--pool=198.51.100.16/28"];
    for text in expected {
        ensure!(nodes.contains(text), "{text} is not in:\n{nodes}");
    }
    let pools = kustomize(case, "overlays/config-map")?;
    ensure!(pools.contains("--config-map=llb/pools") && pools.contains("- configmaps"), "{pools}");
    let outside = objects(&kustomize(case, "overlays/outside")?)?;
    ensure!(!outside.keys().any(|name| name.starts_with("DaemonSet")), "{:?}", outside.keys());
    case.cluster.kubectl(&["delete", "namespace", "crm", "shop", "--wait=false"])?;
    case.cluster.kubectl(&["delete", definition]).map(drop)
}

/// The rules are written in the chart a second time, so that the chart can be read.
pub(crate) fn the_chart_grants_the_rights_of_the_list(case: &mut Case<'_>) -> Result<()> {
    for (values, flags) in [
        (vec![], vec![]),
        (vec!["class=Example.com/Edge_1"], vec!["--class=Example.com/Edge_1"]),
        (vec!["lease=off"], vec!["--lease=off"]),
        (vec!["configMap=edge/pools.web"], vec!["--config-map=edge/pools.web"]),
        (vec!["namespaces={shop,crm}"], vec!["--namespace=shop", "--namespace=crm"]),
        (
            vec!["namespaces={shop}", "lease=kube-system/edge"],
            vec!["--namespace=shop", "--lease=kube-system/edge"],
        ),
    ] {
        let values: Vec<&str> = values.into_iter().flat_map(|value| ["--set", value]).collect();
        let rendered = rights(&render(case.cluster, "least", &values)?)?;
        let mut command = Command::new(agent::binary()?);
        let output = command.arg("rbac").args(&flags).output().context("cannot start llb-agent")?;
        let printed = rights(&String::from_utf8(output.stdout)?)?;
        ensure!(!printed.is_empty() && rendered == printed, "{flags:?}: {rendered:#?}\n{printed:#?}");
    }
    Ok(())
}

pub(crate) fn kustomize_has_the_daemon_set_of_the_chart(case: &mut Case<'_>) -> Result<()> {
    let name = "DaemonSet llb/llb-agent";
    let rendered = objects(&render(case.cluster, "least", &[])?)?;
    let built = objects(&kustomize(case, "base")?)?;
    let (rendered, built) = (&rendered[name]["spec"], &built[name]["spec"]);
    ensure!(rendered.is_object() && rendered == built, "{rendered:#}\n{built:#}");
    Ok(())
}

pub(crate) fn wrong_values_are_named(case: &mut Case<'_>) -> Result<()> {
    for (values, words) in [
        (["--set", "pool=198.51.100.0/24"], ["pool", "not allowed"]),
        (["--set", "datapath=ebpf"], ["/datapath", "'auto'"]),
        (["--set", "image.repository="], ["image.repository is required", "no registry has"]),
        (["--set", "configMap=pools"], ["/configMap", "pattern"]),
        (["--set-json", "linkDevices=[]"], ["linkDevices is required", "[eth0]"]),
        (["--set", "serviceMonitor.enabled=true"], ["admin.address", "$(HOST_IP)"]),
        (["--set", "serviceMonitor.enabled=true,admin.address=[::1]"], ["admin.address", "$(HOST_IP)"]),
    ] {
        let error = render(case.cluster, "least", &values).err().context("rendered all the same")?;
        let error = format!("{error:#}");
        ensure!(words.iter().all(|word| error.contains(word)), "{values:?}: {error}");
    }
    Ok(())
}

/// The chart as it is for a release `llb-agent` in the namespace `llb`: with the names of `llb-agent rbac`.
fn render(cluster: &Cluster, values: &str, more: &[&str]) -> Result<String> {
    let chart = chart();
    let file = values_file(values);
    let words = ["template", "llb-agent", &chart, "--namespace", "llb", "--values", &file];
    cluster.helm(&[&words[..], more].concat())
}

fn kustomize(case: &Case<'_>, folder: &str) -> Result<String> {
    let path = deploy_folder().join("kustomize").join(folder).display().to_string();
    case.cluster.kubectl(&["kustomize", &path])
}

fn dry_run(case: &Case<'_>, text: &str) -> Result<()> {
    let words = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
    case.cluster.kubectl_with_input(&words, text).map(drop)
}

pub(crate) fn chart() -> String {
    deploy_folder().join("helm/llb").display().to_string()
}

fn values_file(name: &str) -> String {
    format!("{}/ci/{name}-values.yaml", chart())
}

/// The objects of a text, by kind, namespace and name.
fn objects(text: &str) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    let is_empty = |object: &&str| object.lines().all(|line| line.is_empty() || line.starts_with('#'));
    let all = text.split("\n---\n").map(|object| object.trim_start_matches("---\n"));
    for object in all.filter(|object| !is_empty(object)) {
        let object: Value = serde_saphyr::from_str(object).with_context(|| object.to_owned())?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let name =
            format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]));
        ensure!(objects.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    Ok(objects)
}

/// What roles, bindings and Leases of a text grant, in any order of their rules.
fn rights(text: &str) -> Result<BTreeMap<String, Value>> {
    let about_rights = |name: &String, _: &mut Value| {
        ["ClusterRole", "Role", "Lease"].iter().any(|kind| name.starts_with(kind))
    };
    let mut objects = objects(text)?;
    objects.retain(about_rights);
    for object in objects.values_mut() {
        let mut rules = object["rules"].as_array().cloned().unwrap_or_default();
        rules.sort_by_key(Value::to_string);
        *object = json!([rules, object["roleRef"], object["subjects"]]);
    }
    Ok(objects)
}
