// SPDX-License-Identifier: Apache-2.0
//! Sends canaries to the Nodes that wait for clients in mode dsr, and listens for what comes of them. What is sent
//! and what follows is decided in `readiness/`; the bytes are those of `canary.rs`.
//!
//! One task. Input: a call when Nodes wait, frames, time. Output: frames, and maps with Nodes that get clients. While
//! no Node waits, it has no socket and does nothing.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockFilter, Socket};
use tokio::time::timeout_at;

use super::canary::{Canaries, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Way};
use super::canary_filter::{HEARD_BYTES, filter};
use super::next_hops::NextHops;
use super::readiness::{Advance, Pair};
use super::shared::Shared;
use super::state::State;
use super::upkeep::catch_up;
use super::vip_look::VipLook;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::model::Frontend;
use crate::packet_socket::{self, ALL_LINKS, Listener};

/// How often it is looked what is due.
const LOOK: Duration = Duration::from_millis(50);
/// So many canaries are sent at once, 2,000 per second: little for Nodes, and a thousand Services with ten Nodes are
/// asked within five seconds.
const MOST: usize = 100;

/// Runs until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, next_hops: Arc<tokio::sync::Mutex<NextHops>>) {
    let mut canaries = Canaries::default();
    loop {
        shared.nodes_wait.notified().await;
        if shared.state().readiness.is_idle() {
            continue;
        }
        let sockets = Sockets::open().inspect_err(|error| {
            let error = ErrorChain(error);
            tracing::warn!(%error, "cannot ask Nodes whether they take packets to a VIP; they get clients after 3 s");
        });
        attend(&shared, &next_hops, &mut canaries, sockets.ok()).await;
    }
}

/// Sends and listens until no Node waits.
async fn attend(
    shared: &Shared,
    next_hops: &tokio::sync::Mutex<NextHops>,
    canaries: &mut Canaries,
    sockets: Option<Sockets>,
) {
    let mut vips = VipLook::default();
    while !shared.state().readiness.is_idle() {
        let next_look = clock::now() + LOOK;
        if let Err(error) = vips.look(shared).await {
            tracing::debug!(error = %ErrorChain(&error), "cannot ask whether a VIP is on this machine");
        }
        let mut ready = send(shared, canaries, sockets.as_ref());
        match &sockets {
            Some(sockets) => ready.extend(listen(shared, canaries, sockets, next_look).await),
            None => tokio::time::sleep_until(next_look).await,
        }
        if ready.is_empty() {
            continue;
        }
        let next_hops = next_hops.lock().await;
        let mut state = shared.state();
        let warned = state.behind.clone();
        state.behind.extend(ready);
        if let Err(error) = catch_up(shared, &mut state, &next_hops, &warned) {
            tracing::warn!(error = %ErrorChain(&error), "Nodes that are ready get no clients yet; it is tried again");
        }
    }
}

/// Sends the canaries that are due. Returns the frontends with Nodes that get clients from now on.
fn send(shared: &Shared, canaries: &mut Canaries, sockets: Option<&Sockets>) -> BTreeSet<Frontend> {
    let mut state = shared.state();
    let State { image, readiness, .. } = &mut *state;
    let way = |pair: &Pair| Way::of(image.backend_at(&pair.frontend, pair.node)?);
    let Advance { canaries: due, ready, given_up } =
        readiness.advance(clock::now(), sockets.is_some(), MOST, |pair| way(pair).is_some());
    let frames = due.into_iter().filter_map(|pair| {
        let way = way(&pair)?;
        Some((way.ifindex, canaries.next(pair, way)?))
    });
    let frames: Vec<(u32, Vec<u8>)> = frames.collect();
    drop(state);
    for (ifindex, frame) in frames {
        if let Some(sockets) = sockets {
            sockets.send(ifindex, &frame);
        }
    }
    for Pair { frontend, node } in given_up {
        tracing::warn!(
            %frontend, %node,
            "a Node sends packets to this frontend back, perhaps because its kube-proxy does not run; it gets clients \
             all the same"
        );
    }
    ready.into_iter().map(|pair| pair.frontend).collect()
}

/// Listens until `end`. Returns the frontends with Nodes that get clients from now on.
async fn listen(
    shared: &Shared,
    canaries: &Canaries,
    sockets: &Sockets,
    end: tokio::time::Instant,
) -> BTreeSet<Frontend> {
    let mut ready = BTreeSet::new();
    let mut buffers = [[0; HEARD_BYTES]; 2];
    while let Ok(frame) = timeout_at(end, sockets.next(&mut buffers)).await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "cannot listen for answers of Nodes");
                tokio::time::sleep_until(end).await;
                break;
            }
        };
        let Some((pair, heard, answer)) = canaries.hear(frame) else { continue };
        if let Some((ifindex, frame)) = answer {
            sockets.send(ifindex, &frame);
        }
        if shared.state().readiness.hear(&pair, heard) {
            ready.insert(pair.frontend);
        }
    }
    ready
}

/// Sockets for all links.
struct Sockets {
    sender: Socket,
    v4: Listener,
    v6: Listener,
}

impl Sockets {
    fn open() -> io::Result<Self> {
        let listener = |ethertype, is_v6| {
            let filter = filter(is_v6)
                .map(|(code, then, otherwise, number)| SockFilter::new(code, then, otherwise, number));
            Listener::open(ALL_LINKS, ethertype, &filter)
        };
        Ok(Self {
            sender: packet_socket::sender()?,
            v4: listener(ETHERTYPE_IPV4, false)?,
            v6: listener(ETHERTYPE_IPV6, true)?,
        })
    }

    /// A frame that can't be sent is one that is not answered.
    fn send(&self, ifindex: u32, frame: &[u8]) {
        if let Err(error) = packet_socket::send(&self.sender, ifindex, frame) {
            tracing::debug!(error = %ErrorChain(&error), ifindex, "cannot send a canary");
        }
    }

    /// The next frame of either family.
    async fn next<'a>(&self, buffers: &'a mut [[u8; HEARD_BYTES]; 2]) -> io::Result<&'a [u8]> {
        let [v4, v6] = buffers;
        tokio::select! {
            frame = self.v4.next(v4) => frame,
            frame = self.v6.next(v6) => frame,
        }
    }
}
