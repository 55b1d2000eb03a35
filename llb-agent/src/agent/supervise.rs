// SPDX-License-Identifier: Apache-2.0
//! `llb-agent supervise`: the main process of `llb.service`. It starts an agent, and does nothing
//! else as long as that agent runs. It exists for restarts: systemd starts the second half of a
//! restart when the main process of the first half has ended, and by then the old agent must still
//! serve, or nobody could take its connections over.
//!
//! ```text
//!   SIGTERM   ends at once and leaves the agent to the next supervisor. When the service is stopped
//!             and not restarted, `llb-agent end-agents` ends the agents afterwards
//!   SIGHUP    is passed on
//!   SIGABRT   systemd's watchdog: the agent hangs. It gets SIGABRT too, then SIGKILL
//!   the agent ends    the supervisor ends with the same status, and systemd decides. But if an older
//!                     agent still serves, that one would then have no supervisor that can be
//!                     stopped: so the supervisor stays, and tries again. The same if no agent can be started
//! ```

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind, signal};

use super::cgroup;
use super::relayed_messages::Messages;
use super::service_manager::say;
use crate::error_chain::ErrorChain;

/// The pause before an agent is started again beside an older one.
const PAUSE: Duration = Duration::from_secs(5);

/// What the user reads after a failure. A hung agent neither hands over nor ends.
const WAY_OUT: &str = "the one before goes on serving (if it hangs: \
    systemctl kill --signal=KILL llb; systemd then starts llb again)";

/// How long an agent may take to write its core dump.
const ABORT_LIMIT: Duration = Duration::from_secs(10);

/// Why the wait for the agent is over.
enum Outcome {
    /// It ended.
    Ended(ExitStatus),
    /// It goes on without this supervisor.
    Left,
}

/// Runs an agent with these arguments, and ends with its status.
///
/// # Errors
/// As [`supervise`].
pub(super) async fn run(arguments: Vec<OsString>) -> anyhow::Result<()> {
    match supervise(arguments).await? {
        Some(status) if !status.success() => std::process::exit(code(status)),
        Some(_) | None => Ok(()),
    }
}

/// Runs an agent with these arguments. Returns its status, or `None` if the agent goes on.
///
/// # Errors
/// The agent can't be started, or it hung.
async fn supervise(arguments: Vec<OsString>) -> anyhow::Result<Option<ExitStatus>> {
    let mut signals = Signals::listen().context("cannot wait for signals")?;
    loop {
        let failure = match start(&arguments) {
            Ok((mut agent, messages)) => match signals.until_the_end(&mut agent, messages.as_ref()).await? {
                Outcome::Left => return Ok(None),
                Outcome::Ended(status) if status.success() || !is_another_left() => return Ok(Some(status)),
                Outcome::Ended(status) => format!("the new agent ended ({status})"),
            },
            Err(error) if is_another_left() => ErrorChain(error.as_ref()).to_string(),
            Err(error) => return Err(error),
        };
        tracing::error!("{failure}; {WAY_OUT}; trying again in {} seconds", PAUSE.as_secs());
        say(&format!("{failure}; {WAY_OUT}"));
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(None),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Starts an agent. What it tells systemd comes by the socket, if there is one.
fn start(arguments: &[OsString]) -> anyhow::Result<(Child, Option<Messages>)> {
    let messages = Messages::listen().context("cannot make a socket in the runtime folder of the service")?;
    let program = program()?;
    let mut command = Command::new(&program);
    // The agent has another number than the process that systemd started.
    command.args(arguments).env_remove("WATCHDOG_PID");
    command.envs(messages.iter().map(|messages| ("NOTIFY_SOCKET", messages.path())));
    let agent = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    Ok((agent, messages))
}

struct Signals {
    terminate: unix::Signal,
    hangup: unix::Signal,
    abort: unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            abort: signal(SignalKind::from_raw(libc::SIGABRT))?,
        })
    }

    async fn until_the_end(
        &mut self,
        agent: &mut Child,
        messages: Option<&Messages>,
    ) -> anyhow::Result<Outcome> {
        let passing_on = async {
            match messages {
                Some(messages) => messages.pass_on_all().await,
                None => std::future::pending().await,
            }
        };
        let mut passing_on = std::pin::pin!(passing_on);
        loop {
            tokio::select! {
                biased;
                _ = self.terminate.recv() => {
                    tracing::info!("the supervisor ends; the agent goes on until the next one takes over, or the service is stopped");
                    return Ok(Outcome::Left);
                }
                _ = self.abort.recv() => {
                    abort(agent).await.context("cannot end the agent")?;
                    bail!("the agent's loop did not go round in time, so it was ended");
                }
                _ = self.hangup.recv() => pass_on(agent, Signal::HUP),
                () = &mut passing_on => {}
                status = agent.wait() => return Ok(Outcome::Ended(status.context("cannot wait for the agent")?)),
            }
        }
    }
}

/// The file of this program now, which may be newer than the one that runs.
fn program() -> anyhow::Result<PathBuf> {
    match std::env::args_os().next().map(PathBuf::from) {
        Some(path) if path.is_absolute() => Ok(path),
        _ => std::env::current_exe().context("cannot find the program of the agent"),
    }
}

fn pass_on(agent: &Child, signal: Signal) {
    let number = agent.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(Err(error)) = number.map(|number| kill_process(number, signal)) {
        tracing::warn!(%error, ?signal, "cannot pass a signal on to the agent");
    }
}

async fn abort(agent: &mut Child) -> io::Result<()> {
    pass_on(agent, Signal::ABORT);
    match tokio::time::timeout(ABORT_LIMIT, agent.wait()).await {
        Ok(ended) => ended.map(drop),
        Err(_) => agent.kill().await,
    }
}

/// Whether an agent of an earlier supervisor still runs.
fn is_another_left() -> bool {
    match cgroup::other_processes() {
        Ok(others) => !others.is_empty(),
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "cannot see whether an older agent still serves");
            false
        }
    }
}

/// The status of a process that ended as the agent did.
fn code(status: ExitStatus) -> i32 {
    /// As shells do.
    const SIGNALLED: i32 = 128;
    status.code().unwrap_or_else(|| SIGNALLED + status.signal().unwrap_or(0))
}
