// SPDX-License-Identifier: Apache-2.0
//! The agent in the machine: start, ask, kill. It knows the command line and the admin address, nothing of the
//! agent's insides.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use llb_tests::{agent, client, wait_until};
use serde_json::Value;

use crate::machine::SHARE;
use crate::stage::{BULK, DNS, HTTP, IPV4, Mode, Stage};

/// Most of a start is the kernel's look at the programs: half a minute in an emulated machine beside another one, several
/// times as long on a busy one.
const READY_LIMIT: Duration = Duration::from_secs(300);

/// Time for an agent to end. The other one takes over in this time if there is one: see [`READY_LIMIT`].
const EXIT_LIMIT: Duration = READY_LIMIT;

const ADMIN_PORT: u16 = 9660;

/// Where the agent of a machine is told to forward.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// `xdp` or `tc`; none: there is no packet plane.
    pub(crate) hook: Option<String>,
    /// Why it is there, or why there is none.
    pub(crate) why: String,
}

/// Starts an agent and waits until it serves. If another one runs, it takes over.
pub(crate) fn start(stage: &mut Stage, datapath: &str) -> Result<Placed> {
    spawn(stage, datapath)?;
    wait_until_ready(stage)?;
    placed(stage)
}

/// As [`start`], but does not wait.
pub(crate) fn spawn(stage: &mut Stage, datapath: &str) -> Result<()> {
    let (binary, link) = (agent::binary()?, stage.link().to_owned());
    let command = format!(
        "mkdir -p /run/llb; cd /run; echo '--- start: --datapath {datapath} on {link}' >> {SHARE}/agent.log; \
         RUST_BACKTRACE=1 setsid {} --linkdevice {link} --manifests {SHARE}/manifests --admin {IPV4}:{ADMIN_PORT} \
         --state-dir /run/llb --bpf-dir /sys/fs/bpf/llb --datapath {datapath} >> {SHARE}/agent.log 2>&1 & \
         echo $! > /run/agent.pid",
        binary.display()
    );
    stage.machine.run(&command).map(drop)
}

/// Waits until the agent has started its planes and serves every VIP.
pub(crate) fn wait_until_ready(stage: &mut Stage) -> Result<()> {
    wait_until(READY_LIMIT, "the agent in the machine to serve", || {
        if let Err(error) = stage.machine.run("kill -0 $(cat /run/agent.pid)") {
            return Ok(Some(Err(error.context("the agent has ended"))));
        }
        get(stage, "/readyz")?;
        let state = state(stage)?;
        for frontend in frontends(stage) {
            let phase = &state["observed"]["frontends"][&frontend]["phase"];
            ensure!(phase == "serving", "{frontend}: {phase}; problems: {}", state["problems"]);
        }
        let link = stage.link().to_owned();
        let addresses = stage.machine.run(&format!("ip -o addr show dev {link}"))?;
        for vip in Mode::ALL.into_iter().flat_map(|mode| stage.vips(mode)) {
            ensure!(addresses.contains(&format!(" {vip}/")), "{vip} is not on {link} yet");
        }
        Ok(Some(Ok(())))
    })
    .and_then(|ready| ready)
    .with_context(|| format!("the agent's log ends with:\n{}", log_tail(stage)))
}

/// Where the programs are now.
pub(crate) fn placed(stage: &Stage) -> Result<Placed> {
    let planes = &state(stage)?["planes"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let link =
        planes["links"].as_array().and_then(|links| links.iter().find(|link| link["link"] == stage.link()));
    Ok(match link {
        Some(link) => Placed { hook: Some(text(&link["hook"])), why: text(&link["why"]) },
        None => Placed { hook: None, why: text(&planes["no_packet_plane"]) },
    })
}

/// Ends the agent if it runs, and everything that it has in the kernel.
pub(crate) fn stop(stage: &mut Stage) -> Result<()> {
    let binary = agent::binary()?;
    stage.machine.run("kill -TERM $(cat /run/agent.pid) || true")?;
    wait_for_end(stage, "/run/agent.pid")?;
    let detach = format!("{} detach --state-dir /run/llb --bpf-dir /sys/fs/bpf/llb", binary.display());
    stage.machine.run_for(EXIT_LIMIT, &detach).map(drop)
}

/// Kills the agent as a crash does.
pub(crate) fn kill9(stage: &mut Stage) -> Result<()> {
    stage.machine.run("kill -KILL $(cat /run/agent.pid) || true")?;
    wait_for_end(stage, "/run/agent.pid")
}

/// Starts a new agent that takes over from the running one, and waits until the old one has ended.
pub(crate) fn hand_over(stage: &mut Stage, datapath: &str) -> Result<()> {
    stage.machine.run("mv /run/agent.pid /run/old.pid")?;
    spawn(stage, datapath)?;
    wait_for_end(stage, "/run/old.pid")?;
    wait_until_ready(stage)
}

/// The last lines of the agents' log.
pub(crate) fn log_tail(stage: &Stage) -> String {
    let log = std::fs::read_to_string(stage.lab.directory().join("agent.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

fn wait_for_end(stage: &mut Stage, pid_file: &str) -> Result<()> {
    let ended = format!("! kill -0 $(cat {pid_file})");
    wait_until(EXIT_LIMIT, "the end of the agent", || match stage.machine.run(&ended) {
        // Nothing that could end any more.
        Err(error) if stage.machine.ended().is_some() => Ok(Some(Err(error))),
        outcome => outcome.map(|_| Some(Ok(()))),
    })
    .and_then(|outcome| outcome)
}

/// All frontends, as `/state` names them. Mode dsr is for a packet plane; without one the relay serves it.
fn frontends(stage: &Stage) -> Vec<String> {
    let ports = [HTTP, BULK, DNS];
    let vips = Mode::ALL.into_iter().flat_map(|mode| stage.vips(mode));
    vips.flat_map(|vip| ports.map(|port| format!("{}/{}", SocketAddr::new(vip, port.port), port.protocol)))
        .collect()
}

/// The whole `/state`.
pub(crate) fn state(stage: &Stage) -> Result<Value> {
    serde_json::from_str(&get(stage, "/state")?).context("/state is not JSON")
}

/// The body of a page of the admin address.
fn get(stage: &Stage, path: &str) -> Result<String> {
    let address = SocketAddr::new(IPV4.into(), ADMIN_PORT);
    let mut stream = client::connect(stage.client(), address)?;
    // HTTP/1.0 has no chunks: the body ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("no answer to {path}"))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("{path}: {answer:?}") };
    ensure!(head.contains(" 200 "), "{path}: {answer}");
    Ok(body.to_owned())
}
