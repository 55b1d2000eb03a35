// SPDX-License-Identifier: Apache-2.0
//! A stand-in for scheduler, kubelet and container runtime of one node, for Pods of llb's DaemonSet. It runs the agent
//! with what the Pod says: arguments, environment, user, capabilities, no_new_privs, a root file system that can't be
//! written, the folders of the node, and a token of the account that is bound to the Pod. It probes, tells the API server
//! whether the Pod is ready, and ends it.
//!
//! What it leaves out: the image (the agent is the program of the test), the seccomp profile of a runtime (the agent
//! installs its own filter), cgroups, and SELinux or AppArmor.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::jiff::Timestamp;
use llb_tests::cluster::Cluster;
use llb_tests::{Host, Process, agent, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Where a Pod finds its token.
const ACCOUNT_FOLDER: &str = "/run/secrets/kubernetes.io/serviceaccount";

/// Runs in a mount namespace of its own: puts the token and the node's folders where the container sees them, and makes
/// the root file system read-only. `/var/run` is `/run`.
const MOUNTS: &str = r#"
set -eu
token=$1 folder=$2 state=$3 bpf=$4
shift 4
mount -t tmpfs tmpfs /run
mkdir -p "$folder"
mount --bind "$token" "$folder"
mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/llb
mount --bind "$state" /var/lib/llb
mount --bind "$bpf" /sys/fs/bpf
mount -o remount,bind,ro /
exec "$@"
"#;

/// A node and the Pods that run on it.
pub(crate) struct Kubelet {
    node: Host,
    namespace: String,
    pods: BTreeMap<String, Pod>,
}

struct Pod {
    process: Process,
    probe: String,
    /// As it was told to the API server.
    is_ready: Option<bool>,
    is_ending: bool,
}

impl Kubelet {
    /// For the Pods of a namespace. Their folders are in the lab.
    pub(crate) fn new(node: &Host, namespace: &str) -> Result<Self> {
        fs::create_dir_all(state_folder(node))?;
        fs::create_dir_all(node.bpf_directory())?;
        Ok(Self { node: node.clone(), namespace: namespace.to_owned(), pods: BTreeMap::new() })
    }

    /// Does its work until `holds`.
    pub(crate) fn run_until(
        &mut self,
        cluster: &Cluster,
        limit: Duration,
        what: &str,
        mut holds: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let result = wait_until(limit, what, || {
            self.step(cluster)?;
            Ok(holds()?.then_some(()))
        });
        result.with_context(|| self.log_tail())
    }

    /// The end of the logs of all Pods.
    pub(crate) fn log_tail(&self) -> String {
        let logs = self.pods.iter().map(|(name, pod)| format!("--- {name}:\n{}", pod.process.log_tail()));
        logs.collect::<Vec<_>>().join("\n")
    }

    /// How many agents run.
    pub(crate) fn running(&self) -> usize {
        self.pods.len()
    }

    fn step(&mut self, cluster: &Cluster) -> Result<()> {
        let list = cluster.get(&self.namespace, &["pods", "--selector", "app.kubernetes.io/name=llb"])?;
        for object in list["items"].as_array().into_iter().flatten() {
            let name = text(&object["metadata"]["name"]);
            if object["metadata"]["deletionTimestamp"].is_string() {
                self.end(cluster, &name)?;
            } else if object["spec"]["nodeName"].is_null() {
                self.bind(cluster, object, &name)?;
            } else if let Some(pod) = self.pods.get_mut(&name) {
                pod.check(cluster, &self.node, &self.namespace, &name)?;
            } else {
                let pod = self.start(cluster, object, &name)?;
                self.pods.insert(name, pod);
            }
        }
        Ok(())
    }

    /// As the scheduler: the DaemonSet controller has written the node into the Pod's affinity.
    fn bind(&self, cluster: &Cluster, object: &Value, name: &str) -> Result<()> {
        let affinity = object["spec"]["affinity"]["nodeAffinity"].to_string();
        ensure!(affinity.contains(self.node.name()), "{name} is for another node: {affinity}");
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": self.node.name()});
        let binding =
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target});
        let path = format!("/api/v1/namespaces/{}/pods/{name}/binding", self.namespace);
        cluster.kubectl_with_input(&["create", "--raw", &path, "-f", "-"], &binding.to_string()).map(drop)
    }

    fn start(&self, cluster: &Cluster, object: &Value, name: &str) -> Result<Pod> {
        let spec = &object["spec"];
        ensure!(spec["hostNetwork"] == true, "the Pod has a network of its own");
        let container = &spec["containers"][0];
        let token = self.write_token(cluster, spec, name)?;
        let environment = self.environment(container)?;
        let mut command = self.node.command("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", MOUNTS, "sh"]);
        command.arg(token).arg(ACCOUNT_FOLDER).arg(state_folder(&self.node)).arg(self.node.bpf_directory());
        check_volumes(spec)?;
        command.args(confinement(&container["securityContext"])?);
        command.args(["env", "-i"]).args(environment.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(agent::binary()?);
        for argument in container["args"].as_array().into_iter().flatten() {
            let expand =
                |text: String, (name, value): (&String, &String)| text.replace(&format!("$({name})"), value);
            command.arg(environment.iter().fold(text(argument), expand));
        }
        let process = self.node.spawn(command, &format!("pod-{name}"))?;
        let probe = &container["readinessProbe"]["httpGet"];
        let own = self.node.ipv4().to_string();
        let probe = format!(
            "http://{}:{}{}",
            probe["host"].as_str().unwrap_or(&own),
            probe["port"],
            text(&probe["path"])
        );
        Ok(Pod { process, probe, is_ready: None, is_ending: false })
    }

    /// The folder with the token of the Pod's account, as kubelet and API server make it for a Pod.
    fn write_token(&self, cluster: &Cluster, spec: &Value, name: &str) -> Result<PathBuf> {
        let folder = self.node.directory().join(format!("token-{name}"));
        fs::create_dir_all(&folder)?;
        let account = text(&spec["serviceAccountName"]);
        let bound = ["--bound-object-kind=Pod", &format!("--bound-object-name={name}")];
        let create = ["--namespace", &self.namespace, "create", "token", &account];
        let token = cluster.kubectl(&[&create[..], &bound].concat())?;
        fs::write(folder.join("token"), token.trim())?;
        fs::write(folder.join("namespace"), &self.namespace)?;
        fs::copy(cluster.authority(), folder.join("ca.crt"))?;
        Ok(folder)
    }

    /// What the container says, and what a kubelet tells every container.
    fn environment(&self, container: &Value) -> Result<BTreeMap<String, String>> {
        let own = [("KUBERNETES_SERVICE_HOST", "10.96.0.1"), ("KUBERNETES_SERVICE_PORT", "443")];
        let mut environment: BTreeMap<_, _> =
            own.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for variable in container["env"].as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                None => text(&variable["value"]),
                Some("status.hostIP") => self.node.ipv4().to_string(),
                Some(other) => bail!("the field {other} is not known here"),
            };
            environment.insert(text(&variable["name"]), value);
        }
        Ok(environment)
    }

    /// Sends SIGTERM, and forgets the Pod when its process has ended.
    fn end(&mut self, cluster: &Cluster, name: &str) -> Result<()> {
        if let Some(pod) = self.pods.get_mut(name) {
            if pod.process.exit_status()?.is_none() {
                if !pod.is_ending {
                    pod.process.signal(Signal::TERM)?;
                    pod.is_ending = true;
                }
                return Ok(());
            }
            self.pods.remove(name);
        }
        let delete =
            ["delete", "pod", name, "--force", "--grace-period=0", "--wait=false", "--ignore-not-found"];
        cluster.kubectl(&[&["--namespace", &self.namespace], &delete[..]].concat()).map(drop)
    }
}

impl Pod {
    /// Probes, and tells the API server what has changed.
    fn check(&mut self, cluster: &Cluster, node: &Host, namespace: &str, name: &str) -> Result<()> {
        if let Some(status) = self.process.exit_status()? {
            bail!("the agent has ended by itself ({status}):\n{}", self.process.log_tail());
        }
        let probe = ["curl", "--silent", "--show-error", "--fail", "--max-time", "5", &self.probe];
        let is_ready = node.output(&probe).is_ok();
        if self.is_ready == Some(is_ready) {
            return Ok(());
        }
        let (own, status) = (node.ipv4().to_string(), if is_ready { "True" } else { "False" });
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        // A Pod is available when it has been ready for minReadySeconds.
        let condition = json!({"type": "Ready", "status": status, "lastTransitionTime": now});
        let status = json!({"status": {
            "phase": "Running",
            "hostIP": own, "hostIPs": [{"ip": own}], "podIP": own, "podIPs": [{"ip": own}],
            "conditions": [condition],
        }});
        let patch = ["patch", "pod", name, "--subresource=status", "--type=merge", "-p", &status.to_string()];
        cluster.kubectl(&[&["--namespace", namespace], &patch[..]].concat())?;
        self.is_ready = Some(is_ready);
        Ok(())
    }
}

/// The Pod has the folders that [`MOUNTS`] puts there, and no others.
fn check_volumes(spec: &Value) -> Result<()> {
    let mounts = spec["containers"][0]["volumeMounts"].as_array().into_iter().flatten();
    let mut paths: Vec<String> = mounts.map(|mount| text(&mount["mountPath"])).collect();
    paths.sort();
    let own = |path: &String| !path.contains("serviceaccount");
    paths.retain(own);
    ensure!(paths == ["/sys/fs/bpf", "/var/lib/llb"], "the Pod mounts {paths:?}");
    Ok(())
}

/// The command that takes away what the security context does not give.
fn confinement(context: &Value) -> Result<Vec<String>> {
    ensure!(context["privileged"] == false && context["readOnlyRootFilesystem"] == true, "{context}");
    ensure!(context["capabilities"]["drop"] == json!(["ALL"]), "{context}");
    let added = context["capabilities"]["add"].as_array().context("no capabilities")?;
    let added = added.iter().map(|name| format!(",+{}", text(name).to_lowercase()));
    let mut words: Vec<String> =
        ["setpriv", "--pdeathsig", "KILL", "--clear-groups"].map(str::to_owned).into();
    words.push(format!("--reuid={}", context["runAsUser"]));
    words.push(format!("--regid={}", context["runAsGroup"]));
    words.push("--inh-caps=-all".to_owned());
    words.push(format!("--bounding-set=-all{}", added.collect::<String>()));
    if context["allowPrivilegeEscalation"] == false {
        words.push("--no-new-privs".to_owned());
    }
    words.push("--".to_owned());
    Ok(words)
}

/// The folder that is `/var/lib/llb` of the node.
fn state_folder(node: &Host) -> PathBuf {
    node.directory().join(format!("{}.var-lib-llb", node.name()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
