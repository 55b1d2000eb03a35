// SPDX-License-Identifier: Apache-2.0
//! What the packet plane needs while nobody asks for anything: routes and
//! neighbours are looked at again, flows swept, frontends that end removed.
//!
//! One task. Input: time, and a call to hurry. Output: maps; a wake-up of the
//! reconciler when a frontend is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::now;
use super::error::PacketError;
use super::link_facts::LinkFacts;
use super::loader::reload;
use super::next_hops::{NextHops, own_links};
use super::shared::Shared;
use super::sweep::sweep;
use crate::model::Frontend;

/// A neighbour that has changed its MAC, or does not answer any more, is noticed
/// after this.
const LOOK: Duration = Duration::from_secs(1);
/// Routes are asked for.
const REFRESH: Duration = Duration::from_secs(10);
/// Neighbours are asked whether they are still there. By itself the kernel would
/// notice a silent one after a minute.
const PROBE: Duration = Duration::from_secs(2);
/// Of so many neighbours; more are asked less often.
const PROBED_PER_SEC: u32 = 500;
/// Flows are swept; far shorter than the shortest lifetime.
const SWEEP: Duration = Duration::from_secs(5);
/// A sweep takes at most one part in so many of a CPU's time.
const SWEEP_SHARE: u32 = 20;
/// How soon a frontend that ends is looked at again.
const DRAIN_LOOK: Duration = Duration::from_millis(200);

/// Until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, next_hops: Arc<tokio::sync::Mutex<NextHops>>) {
    let mut next_look = Instant::now() + LOOK;
    let mut next_refresh = Instant::now() + REFRESH;
    let mut next_probe = Instant::now() + PROBE;
    let mut next_sweep = Instant::now();
    loop {
        let is_draining = shared.state().is_draining();
        let wait = if is_draining { DRAIN_LOOK } else { LOOK };
        let is_hurried = tokio::select! {
            () = shared.hurry.notified() => true,
            () = tokio::time::sleep(wait) => false,
        };
        let time = Instant::now();
        if time >= next_look {
            let is_full = time >= next_refresh;
            if let Err(error) = look(&shared, &next_hops, is_full).await {
                tracing::warn!(%error, "cannot look at routes and neighbours");
            }
            next_look = Instant::now() + LOOK;
            if is_full {
                next_refresh = next_look + REFRESH;
            }
        }
        if time >= next_probe {
            let addresses = shared.state().image.addresses();
            let asked = next_hops.lock().await.probe(&addresses).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot ask neighbours");
                0
            });
            next_probe = Instant::now() + PROBE.max(Duration::from_secs(1) * asked / PROBED_PER_SEC);
        }
        if is_hurried || is_draining || time >= next_sweep {
            let shared = Arc::clone(&shared);
            let begun = Instant::now();
            // It blocks for as long as there are flows.
            let swept = tokio::task::spawn_blocking(move || sweep_all(&shared)).await;
            if !matches!(swept, Ok(Ok(()))) {
                tracing::warn!(?swept, "cannot sweep flows");
            }
            next_sweep = Instant::now() + SWEEP.max(begun.elapsed() * SWEEP_SHARE);
        }
    }
}

/// Follows what the kernel knows of the way to each backend.
async fn look(
    shared: &Arc<Shared>,
    next_hops: &tokio::sync::Mutex<NextHops>,
    is_full: bool,
) -> std::io::Result<()> {
    let addresses = shared.state().image.addresses();
    let mut next_hops = next_hops.lock().await;
    let has_new_link = follow_links(shared, &mut next_hops).await?;
    let is_changed = if is_full || has_new_link {
        next_hops.refresh(&addresses).await?
    } else {
        next_hops.read_neighbours().await?
    };
    if !is_changed && !has_new_link {
        return Ok(());
    }
    let mut state = shared.state();
    state.add_sources(&next_hops)?;
    let all: Vec<_> = state
        .image
        .frontends()
        .filter_map(|(frontend, rule, mode, gate)| Some((*frontend, Arc::clone(rule?), mode, gate)))
        .collect();
    for (frontend, rule, mode, gate) in all {
        if state.follow(frontend, &rule, (mode, gate), &next_hops).is_err() {
            tracing::warn!(%frontend, "backends are served as they were: no room for another table");
        }
    }
    Ok(())
}

/// A link that was made anew gets its program again, and one that has another
/// MAC is told so; `true` if there was one. A link that is away is waited for.
async fn follow_links(shared: &Arc<Shared>, next_hops: &mut NextHops) -> std::io::Result<bool> {
    let found = next_hops.link_facts().await?;
    let known: Vec<LinkFacts> = shared.links().iter().map(|link| link.facts.clone()).collect();
    let mut is_changed = false;
    for (place, old) in known.iter().enumerate() {
        let Some(new) = found.iter().find(|link| link.name == old.name) else { continue };
        if (new.ifindex, new.mac, new.mtu) == (old.ifindex, old.mac, old.mtu) {
            continue;
        }
        if new.ifindex == old.ifindex {
            shared.links()[place].facts.clone_from(new);
        } else {
            let (shared, facts) = (Arc::clone(shared), new.clone());
            let load = move || {
                let lock = shared.links()[place].folder.lock().ok();
                let link = reload(&shared.setup, &facts, shared.capacities, &shared.folder, lock)?;
                shared.links()[place] = link;
                Ok::<(), PacketError>(())
            };
            if let Err(error) = tokio::task::spawn_blocking(load).await.map_err(std::io::Error::other)? {
                tracing::warn!(link = new.name, %error, "no program on the link that was made anew");
                continue;
            }
        }
        let maps = Arc::clone(&shared.state().maps);
        shared.links()[place].switch_on(&maps.links)?;
        tracing::info!(
            link = new.name,
            ifindex = new.ifindex,
            "the link has changed: its packets are forwarded again"
        );
        is_changed = true;
    }
    if is_changed {
        let facts: Vec<LinkFacts> = shared.links().iter().map(|link| link.facts.clone()).collect();
        next_hops.set_links(own_links(&facts));
    }
    Ok(is_changed)
}

/// Flows that are over, backends without flows, frontends that have ended.
fn sweep_all(shared: &Shared) -> std::io::Result<()> {
    // The walk may take long, and others want the lock.
    let maps = Arc::clone(&shared.state().maps);
    let counts = sweep(&maps, now())?;
    let mut state = shared.state();
    let writes = state.image.forget_idle(|id| counts.all.contains_key(&id));
    state.maps.apply(writes)?;
    let ended: Vec<Frontend> = state
        .drains
        .iter()
        .filter(|(frontend, until)| {
            let mut backends = state.image.backends(frontend);
            let is_quiet = !backends.any(|(_, entry)| counts.open.contains_key(&entry.id));
            is_quiet || Instant::now() >= **until
        })
        .map(|(frontend, _)| *frontend)
        .collect();
    for frontend in &ended {
        state.drains.remove(frontend);
        let writes = state.image.remove(frontend, now());
        state.maps.apply(writes)?;
        tracing::info!(%frontend, "drained");
    }
    state.flows = counts;
    drop(state);
    if !ended.is_empty() {
        shared.changed.notify_one();
    }
    Ok(())
}
