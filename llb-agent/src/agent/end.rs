// SPDX-License-Identifier: Apache-2.0
//! How an agent ends: after a signal it ends everything, and after a hand-over
//! it only lets its open connections end.

use crate::addresses::AddressTable;
use crate::config::{AfterHandover, AtStop, Config};
use crate::dataplane::{DataPlane, Planes};
use crate::error_chain::ErrorChain;
use crate::health::Health;
use crate::reconcile::{Reconciler, Rooms, Wakeups};
use crate::status::StatusSink;

use super::service_manager;
use super::signals::Signals;

/// After a signal: takes no new connections, lets the old ones end until the
/// drain time-out or a second signal, then removes the addresses.
pub(super) async fn shut_down<A: AddressTable, S: StatusSink>(
    mut reconciler: Reconciler<Planes, A, S>,
    wakeups: &Wakeups,
    mut signals: Signals,
    config: &Config,
) -> anyhow::Result<()> {
    tracing::info!(limit = ?config.relay.drain_timeout, "ending: no new connections; a second signal ends the old ones at once");
    let keep = config.packet.at_stop == AtStop::Keep;
    reconciler.set_health(Health::default());
    tokio::select! {
        () = reconciler.shut_down(wakeups, keep) => {}
        () = signals.stop() => {
            tracing::warn!("second signal: ending all connections now");
            reconciler.rooms.plane.abort();
            reconciler.shut_down(wakeups, keep).await;
        }
    }
    if !keep {
        if let Err(error) = reconciler.rooms.addresses.leave().await {
            tracing::warn!("{}", ErrorChain(&error));
        }
        reconciler.rooms.plane.detach().await?;
    }
    tracing::info!("ended");
    Ok(())
}

/// After a hand-over: lets open connections end, and changes neither addresses
/// nor statuses, which belong to the other agent now. The first signal changes
/// nothing, since this agent ends anyway; the second one ends the connections.
pub(super) async fn leave<A: AddressTable, S: StatusSink>(
    mut reconciler: Reconciler<Planes, A, S>,
    wakeups: &Wakeups,
    mut signals: Signals,
    after: AfterHandover,
) {
    // The other agent makes the health checks now.
    reconciler.set_health(Health::default());
    let Rooms { mut plane, .. } = reconciler.rooms;
    plane.hand_over();
    tracing::info!("handed over: old connections may end; two signals end them at once");
    let mut received = 0;
    while !plane.observe().is_empty() {
        tokio::select! {
            () = wakeups.plane.notified() => {}
            () = signals.stop() => {
                received += 1;
                if received > 1 {
                    tracing::warn!("second signal: ending all connections now");
                    plane.abort();
                }
            }
        }
    }
    if after == AfterHandover::Wait && received == 0 && service_manager::is_there() {
        tracing::info!(
            "all connections have ended; this agent ends in spite of --after-handover=wait, since a service manager \
             does not start it again, and one agent more would stay after each restart"
        );
    } else if after == AfterHandover::Wait && received == 0 {
        tracing::info!("all connections have ended; waiting for SIGTERM");
        signals.stop().await;
    }
    tracing::info!("ended");
}
