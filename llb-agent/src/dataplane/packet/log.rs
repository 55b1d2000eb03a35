// SPDX-License-Identifier: Apache-2.0
//! For debugging only (feature `ebpf-log`): logs, at level trace, what the programs of an object
//! from `cargo xtask build-ebpf --log` print. The agent works without it, so a failure here is
//! only logged.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::runtime::Handle;

use crate::error_chain::ErrorChain;

/// Soon enough for a person. To wait until the ring is readable would need `unsafe`.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Starts a task that ends with the runtime. To be called after the programs were loaded, as it
/// takes a map out of `ebpf`.
pub(super) fn follow(ebpf: &mut Ebpf, link: &str) {
    let Ok(runtime) = Handle::try_current() else {
        return tracing::warn!(link, "no log of eBPF programs: not in an async runtime");
    };
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(link, error = %ErrorChain(&error), "no log of eBPF programs"),
    };
    runtime.spawn(async move {
        let mut interval = tokio::time::interval(FLUSH_INTERVAL);
        loop {
            interval.tick().await;
            logger.flush();
        }
    });
}
