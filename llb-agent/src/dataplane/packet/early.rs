// SPDX-License-Identifier: Apache-2.0
//! Sends later fragments that came before the first one of their packet. The programs can't hold packets back, so they
//! give them to the agent, and tell it when the first one was forwarded. What waits is in `early_frames.rs`.
//!
//! One task. Input: the programs' ring of early fragments. Output: a packet socket. The programs stop
//! copying when the ring is full, as it is after a while without an agent.

use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use llb_common::early::Release;

use super::early_frames::{EarlyFrames, Ready};
use super::ring;
use super::shared::Shared;
use crate::error_chain::ErrorChain;
use crate::{clock, packet_socket};

/// So many entries are read in each period: 20,000 a second. A flood of them then costs little of a CPU.
const MOST_IN_PERIOD: usize = 500;
const PERIOD: Duration = Duration::from_millis(25);
/// The pause after a failure to wait.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(super) async fn run(mut ring: RingBuf<MapData>, shared: Arc<Shared>) {
    let socket = match packet_socket::sender() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "no packet socket: packets whose fragments arrive in another order are lost");
            return;
        }
    };
    // They are of the time before this agent.
    while ring.next().is_some() {}
    let mut frames = EarlyFrames::default();
    let (mut since, mut read) = (clock::now(), 0);
    loop {
        if let Err(error) = ring::wait(&ring).await {
            tracing::warn!(error = %ErrorChain(&error), "cannot wait for early fragments");
            tokio::time::sleep(LONG_PAUSE).await;
        }
        let now = clock::now();
        frames.expire(now);
        if now.duration_since(since) >= PERIOD {
            (since, read) = (now, 0);
        }
        while read < MOST_IN_PERIOD
            && let Some(entry) = ring.next()
        {
            read += 1;
            let ready: Vec<Ready> = match bytemuck::try_pod_read_unaligned::<Release>(&entry) {
                Ok(release) => frames.release(release, now),
                Err(_) => frames.add(&entry, now).into_iter().collect(),
            };
            for Ready { ifindex, frame } in ready {
                match packet_socket::send(&socket, ifindex, &frame) {
                    Ok(()) => frames.counts.sent += 1,
                    Err(error) => {
                        frames.counts.failed += 1;
                        tracing::debug!(%error, ifindex, "cannot send an early fragment");
                    }
                }
            }
        }
        *shared.early() = frames.counts;
        if read == MOST_IN_PERIOD {
            tokio::time::sleep_until(since + PERIOD).await;
        }
    }
}
