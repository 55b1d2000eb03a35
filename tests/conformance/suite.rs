// SPDX-License-Identifier: Apache-2.0
//! Runs the tests of Kubernetes, one process for each, and reads ginkgo's report. It does not judge.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use llb_tests::{Host, Process};
use serde_json::Value;

/// The tests of Kubernetes that concern a load balancer, by ginkgo's regular expression.
const FOCUS: &str = r"\[sig-network\] LoadBalancers";

/// How long a test may take. Those that roll out new Pods five times take longest.
const TEST_LIMIT: Duration = Duration::from_secs(420);

/// What the program needs beyond [`TEST_LIMIT`] to clean up and to write its report.
const CLEAN_UP: Duration = Duration::from_secs(240);

/// Flags that fit a cluster without cloud, container images and kubelets.
const FLAGS: [&str; 8] = [
    "-provider=skeleton",
    "-minStartupPods=0",
    "-allowed-not-ready-nodes=-1",
    "-disable-log-dump=true",
    "-dump-logs-on-failure=false",
    "-node-os-distro=debian",
    "-ginkgo.v",
    "-ginkgo.no-color",
];

/// The name of a test as ginkgo's focus sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) String);

impl Name {
    /// Without what all names have, and without labels like `[Slow]`.
    pub(crate) fn short(&self) -> String {
        let words = self.0.split_whitespace().filter(|word| !(word.starts_with('[') && word.ends_with(']')));
        words.collect::<Vec<_>>().join(" ").replace("LoadBalancers ", "")
    }
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Pass,
    /// The reason that the test gives.
    Skip(String),
    /// The message of the test.
    Fail(String),
}

/// The program with the tests, on the host of the lab that is outside of the cluster.
pub(crate) struct Suite {
    program: PathBuf,
    kubeconfig: PathBuf,
    client: Host,
}

impl Suite {
    pub(crate) fn new(program: &Path, kubeconfig: &Path, client: &Host) -> Self {
        Self { program: program.to_owned(), kubeconfig: kubeconfig.to_owned(), client: client.clone() }
    }

    /// The names of all tests, sorted: ginkgo shuffles them.
    pub(crate) fn list(&self) -> Result<Vec<Name>> {
        let specs = self.run("list", FOCUS, &["-ginkgo.dry-run"])?;
        let chosen = specs.iter().filter(|spec| spec["State"] == "passed");
        let mut names: Vec<Name> = chosen.map(name_of).collect();
        names.sort_by_key(Name::short);
        Ok(names)
    }

    /// Runs the test with this name.
    pub(crate) fn test(&self, number: usize, name: &Name) -> Result<Outcome> {
        // Ginkgo puts the name of the suite in front.
        let focus = format!("{}$", escaped(&name.0));
        let specs = self.run(&format!("test-{number}"), &focus, &[])?;
        let spec = specs.iter().find(|spec| name_of(spec) == *name);
        spec.map(outcome).with_context(|| format!("the report does not have {}", name.0))
    }

    /// The log of the test with this number.
    pub(crate) fn log(&self, number: usize) -> PathBuf {
        self.client.directory().join(format!("test-{number}.log"))
    }

    /// Runs the program and returns what its report says about each test.
    fn run(&self, label: &str, focus: &str, more: &[&str]) -> Result<Vec<Value>> {
        let report = self.client.directory().join(format!("{label}.json"));
        let mut command = self.client.command(&self.program);
        command
            .current_dir(self.client.directory())
            .args(FLAGS)
            .arg(format!("-kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("-ginkgo.timeout={}s", TEST_LIMIT.as_secs()))
            .arg(format!("-ginkgo.json-report={}", report.display()))
            .arg(format!("-ginkgo.focus={focus}"))
            .args(more);
        let mut process: Process = self.client.spawn(command, label)?;
        // The exit status says no more than the report.
        process.wait_exit(TEST_LIMIT + CLEAN_UP)?;
        let text = fs::read_to_string(&report)
            .with_context(|| format!("no report; the log ends with:\n{}", process.log_tail()))?;
        let suites: Value = serde_json::from_str(&text)?;
        let specs = suites[0]["SpecReports"].as_array().cloned();
        let specs = specs.ok_or_else(|| anyhow!("the report has no tests"))?;
        Ok(specs.into_iter().filter(|spec| spec["LeafNodeType"] == "It").collect())
    }
}

fn name_of(spec: &Value) -> Name {
    let groups = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let words: Vec<&str> = groups.chain([&spec["LeafNodeText"]]).filter_map(Value::as_str).collect();
    Name(words.join(" "))
}

fn outcome(spec: &Value) -> Outcome {
    let message = || spec["Failure"]["Message"].as_str().unwrap_or_default().trim().to_owned();
    match spec["State"].as_str() {
        Some("passed") => Outcome::Pass,
        Some("skipped") => Outcome::Skip(message()),
        state => Outcome::Fail(format!("{}: {}", state.unwrap_or("no state"), message())),
    }
}

/// `text` as a regular expression.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if !character.is_alphanumeric() && character != ' ' {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_read() {
        let spec = |state: &str| {
            json!({
                "ContainerHierarchyTexts": ["[sig-network] LoadBalancers"],
                "LeafNodeText": "should work",
                "State": state,
                "Failure": {"Message": "  why\n"},
            })
        };
        assert_eq!(name_of(&spec("passed")).0, "[sig-network] LoadBalancers should work");
        assert_eq!(name_of(&spec("passed")).short(), "should work");
        assert_eq!(outcome(&spec("passed")), Outcome::Pass);
        assert_eq!(outcome(&spec("skipped")), Outcome::Skip("why".to_owned()));
        assert_eq!(outcome(&spec("timedout")), Outcome::Fail("timedout: why".to_owned()));
        assert_eq!(escaped("[a] b=c"), r"\[a\] b\=c");
    }
}
