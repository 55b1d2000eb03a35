// SPDX-License-Identifier: Apache-2.0
//! Drives the real `llb-agent` binary on a lab's host: start, ask, kill. It knows the command line and the
//! admin address, nothing of the agent's insides.

use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::Signal;
use serde_json::Value;

use crate::wait::wait_until;
use crate::{Host, Process, environment};

/// The default value of `--admin`.
const ADMIN: &str = "127.0.0.1:9660";

/// From start to ready: the agent takes a second to load its programs, longer on a busy machine, and half a minute in an
/// emulated one.
const READY_LIMIT: Duration = Duration::from_secs(150);

/// Time to end for an agent that has nothing to drain.
const EXIT_LIMIT: Duration = Duration::from_secs(30);

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    host: Host,
    process: Process,
}

impl Agent {
    /// Starts the agent on `host` with `--linkdevice eth0`, its own folders in the lab and `arguments`, and
    /// waits until it reports that it is ready.
    ///
    /// # Errors
    /// There is no binary, or the agent does not get ready; the error then holds its log.
    pub fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        let mut agent = Self::spawn(host, arguments)?;
        let ready = wait_until(READY_LIMIT, "/readyz", || match agent.process.exit_status()? {
            // As an error of the poll it would only mean "not yet".
            Some(status) => Ok(Some(Err(anyhow!("it has ended: {status}")))),
            None => agent.get("/readyz").map(|_| Some(Ok(()))),
        });
        ready.flatten().with_context(|| {
            format!("the agent did not get ready; its log:\n{}", agent.process.log_tail())
        })?;
        Ok(agent)
    }

    /// As [`Agent::start`], but does not wait.
    ///
    /// # Errors
    /// There is no binary.
    pub fn spawn(host: &Host, arguments: &[&str]) -> Result<Self> {
        Self::spawn_with(host, arguments, &[])
    }

    /// As [`Agent::spawn`], with these environment variables.
    ///
    /// # Errors
    /// There is no binary.
    pub fn spawn_with(host: &Host, arguments: &[&str], variables: &[(&str, &Path)]) -> Result<Self> {
        let mut command = host.command(binary()?);
        command
            .args(["--linkdevice", Host::LINK])
            .arg("--state-dir")
            .arg(host.directory().join(format!("{}.state", host.name())))
            .arg("--bpf-dir")
            .arg(host.bpf_directory())
            .args(arguments)
            .envs(variables.iter().copied())
            .env("RUST_BACKTRACE", "1");
        let process = host.spawn(command, &format!("agent-{}", host.name()))?;
        Ok(Self { host: host.clone(), process })
    }

    /// The content of `/state`: desired state, observed state, problems and facts.
    ///
    /// # Errors
    /// The agent does not answer, or its answer is not JSON.
    pub fn state(&self) -> Result<Value> {
        serde_json::from_str(&self.get("/state")?).context("/state is not JSON")
    }

    /// The body of a page of the admin address.
    ///
    /// # Errors
    /// No answer, or a status other than 2xx; the error then holds the body.
    pub fn get(&self, path: &str) -> Result<String> {
        self.host.output(&[
            "curl",
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            "5",
            &format!("http://{ADMIN}{path}"),
        ])
    }

    /// The value of a metric, by its whole name with labels; 0 if it is not there.
    ///
    /// # Errors
    /// No answer.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let metrics = self.get("/metrics")?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(Ok(0), |value| value.parse().with_context(|| format!("{name} is {value}")))
    }

    /// Number of connections and flows that all planes together have served so far.
    ///
    /// # Errors
    /// No answer.
    pub fn connections(&self) -> Result<u64> {
        let metrics = self.get("/metrics")?;
        let is_count = |line: &&str| {
            line.starts_with("llb_relay_connections_total ")
                || line.starts_with("llb_backend_connections_total{") && line.contains("plane=\"packet\"")
        };
        let counts = metrics.lines().filter(is_count).filter_map(|line| line.rsplit_once(' '));
        counts.map(|(_, count)| count.parse::<u64>().with_context(|| format!("a count is {count}"))).sum()
    }

    /// Waits until `/state` satisfies `holds`.
    ///
    /// # Errors
    /// It does not hold within `limit`; the error holds the last state.
    pub fn wait_for_state(
        &self,
        limit: Duration,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait_until(limit, what, || {
            let state = self.state()?;
            if holds(&state) { Ok(Some(state)) } else { Err(anyhow!("{state:#}")) }
        })
        .with_context(|| format!("the agent's log:\n{}", self.process.log_tail()))
    }

    /// Waits for a problem with this reason, and returns it as text.
    ///
    /// # Errors
    /// There is no such problem within `limit`; the error holds the last state.
    pub fn wait_for_problem(&self, limit: Duration, reason: &str) -> Result<String> {
        let what = format!("the problem {reason}");
        let state = self.wait_for_state(limit, &what, |state| problem(state, reason).is_some())?;
        Ok(problem(&state, reason).map(|problem| problem.to_string()).unwrap_or_default())
    }

    /// Whether this agent serves the admin address. Two agents may use the same address at the same time, so
    /// this looks for the process that owns the socket.
    ///
    /// # Errors
    /// `ss` failed.
    pub fn listens(&self) -> Result<bool> {
        let sockets =
            self.host.output(&["ss", "--listening", "--unix", "--tcp", "--processes", "--no-header"])?;
        let pid = format!("pid={},", self.process.pid());
        Ok(sockets.lines().any(|line| line.contains("9660") && line.contains(&pid)))
    }

    /// Sends SIGKILL, as a crash or the OOM killer would end it.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill9(mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Sends SIGTERM; [`Agent::wait_exit`] waits for the end.
    ///
    /// # Errors
    /// It has ended before.
    pub fn terminate(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits until the agent ends after [`Agent::terminate`].
    ///
    /// # Errors
    /// It still runs after the limit; the error holds its log.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        self.process.wait_exit(EXIT_LIMIT)
    }

    /// The process, for its pid and exit status.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything that it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// The first problem with this reason in a `/state`.
pub fn problem<'a>(state: &'a Value, reason: &str) -> Option<&'a Value> {
    state["problems"].as_array()?.iter().find(|problem| problem["reason"] == reason)
}

/// The binary to test: `LLB_AGENT`, or else the one beside this program or in the folder above.
///
/// # Errors
/// There is none; the error says how to get one.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = environment::agent() {
        return Ok(path);
    }
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let name = format!("llb-agent{EXE_SUFFIX}");
    // target/debug/deps/lab-0123456789abcdef or target/debug/llb-demo.
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(&name))
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("there is no {name} next to {}: run `cargo build -p llb-agent` with the same profile, or name the binary in LLB_AGENT", this.display()))
}
