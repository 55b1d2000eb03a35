// SPDX-License-Identifier: Apache-2.0
//! Debugging only (feature `ebpf-log`): prints what the programs of an object
//! from `cargo xtask build-ebpf --log` say, at level trace. Never needed for
//! the agent to work, so a failure here is a line in the log.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::runtime::Handle;

/// Soon enough for a person. Waiting for the ring to be readable instead
/// would need `unsafe`.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Starts a task that ends with the runtime. To be called after the programs
/// were loaded, since it takes a map out of `ebpf`.
pub(super) fn follow(ebpf: &mut Ebpf, link: &str) {
    let Ok(runtime) = Handle::try_current() else {
        return tracing::warn!(link, "no log of eBPF programs: not in an async runtime");
    };
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(link, %error, "no log of eBPF programs: built without --log?"),
    };
    runtime.spawn(async move {
        let mut interval = tokio::time::interval(FLUSH_INTERVAL);
        loop {
            interval.tick().await;
            logger.flush();
        }
    });
}
