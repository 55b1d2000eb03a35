// SPDX-License-Identifier: Apache-2.0
//! SIGTERM and SIGINT; and SIGHUP, before something waits for it.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the agent.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// From now on SIGHUP does not end the process. One that comes before the agent waits for it (`reload.rs`)
/// asks for nothing: the file is read after it anyway, or has just been read.
pub(super) fn survive_hangups() -> anyhow::Result<()> {
    // A handler stays when its runtime has gone. This runtime starts no thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.context("cannot start a runtime for signals")?;
    let _entered = runtime.enter();
    signal(SignalKind::hangup()).map(drop).context("cannot wait for SIGHUP")
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
        })
    }

    /// Waits for the next one. Cancel safe.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
