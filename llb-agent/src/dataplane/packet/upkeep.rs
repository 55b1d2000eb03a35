// SPDX-License-Identifier: Apache-2.0
//! What the packet plane does without being asked: it follows routes, neighbours and links
//! that change, sweeps flows, and removes frontends whose drain is over.
//!
//! One task. Input: time, and a call to hurry. Output: maps, and a wake-up of the reconcile
//! loop when frontends have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::clock::now;
use super::error::PacketError;
use super::failures::Found;
use super::link_facts::LinkFacts;
use super::maps::Maps;
use super::next_hops::{NextHops, own_links};
use super::packet_link::forget_others;
use super::placing::note_moves;
use super::refusal::Refusal;
use super::relink::{ladders, look_at_links, replace};
use super::retry::Retry;
use super::schedule::{LOOK, Schedule};
use super::shared::Shared;
use super::state::State;
use super::sweep::sweep;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::model::{FailureReason, Frontend, Mode};
use llb_common::address::Mac;
use llb_common::backend::BackendId;

/// How often a frontend that ends soon is looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(200);

/// What the looks know about links from one to the next.
#[derive(Default)]
struct Links {
    /// A link has changed, and the backends are not brought there yet.
    have_changed: bool,
    /// Links that were made anew and took no program, by their places.
    refusals: BTreeMap<usize, Refused>,
}

/// A link that was made anew took no program.
struct Refused {
    /// The number, the MAC address and the MTU that it had. It is tried at once when they change.
    facts: (u32, Mac, u32),
    error: String,
    retry: Retry,
}

/// Runs until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, next_hops: Arc<tokio::sync::Mutex<NextHops>>) {
    let mut due = Schedule::start(clock::now());
    let mut links = Links::default();
    // A drain that ends with its last flow waits for a sweep.
    let mut is_awaited = false;
    loop {
        let ends_soon = shared.state().ends_soon();
        let is_hurried = tokio::select! {
            () = shared.hurry.notified() => true,
            () = tokio::time::sleep(if ends_soon { DRAIN_LOOK } else { LOOK }) => false,
        };
        let time = clock::now();
        repair(&shared);
        if time >= due.look {
            let is_full = time >= due.refresh;
            let begun = clock::now();
            if let Err(error) = look(&shared, &next_hops, &mut links, is_full).await {
                let error = ErrorChain(&error);
                tracing::warn!(%error, "cannot follow routes, neighbours and links");
            }
            let took = begun.elapsed();
            note_failures(&shared, &*next_hops.lock().await).unwrap_or_else(|error| {
                tracing::warn!(error = %ErrorChain(&error), "cannot read which backends fail");
            });
            look_at_links(&shared).await;
            due.looked(is_full, took, clock::now());
        }
        if time >= due.probe {
            let addresses = shared.state().image.addresses();
            let probed = next_hops.lock().await.probe(&addresses).await.unwrap_or_else(|error| {
                tracing::warn!(error = %ErrorChain(&error), "cannot probe neighbours");
                0
            });
            due.probed(probed, clock::now());
        }
        is_awaited |= is_hurried || ends_soon;
        if due.sweeps(is_awaited, time) {
            let shared = Arc::clone(&shared);
            let begun = clock::now();
            // It blocks for a time that grows with the number of flows.
            let swept = tokio::task::spawn_blocking(move || sweep_all(&shared)).await;
            if let Err(error) = swept.map_err(io::Error::other).flatten() {
                tracing::warn!(error = %ErrorChain(&error), "cannot sweep flows");
            }
            due.swept(begun.elapsed(), clock::now());
            is_awaited = false;
        } else if is_awaited {
            end_drains(&shared, |_| true).unwrap_or_else(|error| {
                tracing::warn!(error = %ErrorChain(&error), "cannot end drains yet; it is tried again");
            });
        }
    }
}

/// Does again what a failed write has left undone.
fn repair(shared: &Shared) {
    let mut state = shared.state();
    let was_in_doubt = state.is_in_doubt;
    if let Err(error) = state.close_draining() {
        tracing::warn!(error = %ErrorChain(&error), "cannot close frontends yet; it is tried again");
    }
    let has_news = was_in_doubt && !state.is_in_doubt;
    drop(state);
    if has_news {
        shared.changed.notify_one();
    }
}

/// Brings backends to the next hops that the kernel has now.
async fn look(
    shared: &Arc<Shared>,
    next_hops: &tokio::sync::Mutex<NextHops>,
    links: &mut Links,
    is_full: bool,
) -> io::Result<()> {
    let mut next_hops = next_hops.lock().await;
    // Not before the lock: what is not in here is forgotten.
    let (all, served) = {
        let state = shared.state();
        (state.addresses(), state.image.addresses())
    };
    follow_links(shared, &mut next_hops, links).await?;
    let is_full = is_full || links.have_changed;
    if is_full {
        next_hops.refresh(&all).await?;
    } else {
        next_hops.read_neighbours().await?;
    }
    let is_changed = next_hops.follow(&served).await?;
    let mut state = shared.state();
    let warned = state.behind.clone();
    if is_changed || links.have_changed {
        state.all_behind();
        links.have_changed = false;
    }
    let forgotten = if is_full {
        note_moves(shared, &mut state, &next_hops);
        let sources = next_hops.sources(&state.image.addresses());
        state.forget_idle_sources(&sources)
    } else {
        Ok(())
    };
    let caught_up = catch_up(shared, &mut state, &next_hops, &warned);
    // Also after an error, which may last: a VIP with some of its backends is better than none.
    note_followed(shared);
    caught_up.and(forgotten)
}

/// The backends are brought to all links, as far as that is possible now. The loop puts VIPs on those that waited.
fn note_followed(shared: &Shared) {
    let mut has_news = false;
    for link in shared.links().iter_mut() {
        has_news |= !std::mem::replace(&mut link.is_followed, true);
    }
    if has_news {
        shared.changed.notify_one();
    }
}

/// Brings the backends of those frontends that are behind to the next hops. `warned`: it was said before that these
/// could not be.
pub(super) fn catch_up(
    shared: &Shared,
    state: &mut State<Maps>,
    next_hops: &NextHops,
    warned: &BTreeSet<Frontend>,
) -> io::Result<()> {
    let behind = state.known_behind();
    if behind.is_empty() {
        return Ok(());
    }
    let sources = next_hops.sources(&state.image.addresses());
    state.add_sources(&sources)?;
    for (frontend, rule, mode, gate) in behind {
        let followed =
            state.follow(frontend, &rule, (mode, gate), |address| next_hops.next_hop(address), now());
        let Err(refusal) = followed else { continue };
        if !warned.contains(&frontend) {
            let error = ErrorChain(&refusal);
            tracing::warn!(%frontend, %error, "its backends keep their old next hops; this is tried again");
        }
        if matches!(refusal, Refusal::WriteMaps(_)) {
            // The rule that the maps follow is unknown now, so the loop must write it again.
            shared.changed.notify_one();
        }
    }
    if !state.readiness.is_idle() {
        shared.nodes_wait.notify_one();
    }
    Ok(())
}

/// Notes which backends are dead, and wakes the loop up if that has changed.
fn note_failures(shared: &Shared, next_hops: &NextHops) -> io::Result<()> {
    let maps = Arc::clone(&shared.state().maps);
    let marks = maps.failing()?;
    let mut state = shared.state();
    let State { image, dead, failures, .. } = &mut *state;
    let no_way = |backend: IpAddr| {
        if next_hops.has_route(backend) { FailureReason::NoNeighbour } else { FailureReason::NoRoute }
    };
    let found = image.in_rules().map(|(_, mode, backend, entry)| {
        let no_way = entry.mac.is_unknown().then(|| no_way(backend.address.ip()));
        // In mode dsr the programs see no answers that could take a mark back.
        let mark = marks.get(&entry.id).copied().filter(|_| mode == Mode::Nat);
        (entry.id, Found { no_way, mark, dead: dead.get(&entry.id).copied() })
    });
    let has_news = failures.follow(found, clock::now_std());
    drop(state);
    if has_news {
        shared.changed.notify_one();
    }
    Ok(())
}

/// Gives a link that was made anew its program again, and tells the program of a link that
/// has another MAC address. A link that is away, or that another agent has, is waited for.
async fn follow_links(shared: &Arc<Shared>, next_hops: &mut NextHops, links: &mut Links) -> io::Result<()> {
    let found = next_hops.link_facts().await?;
    let known: Vec<LinkFacts> = shared.links().iter().map(|link| link.facts.clone()).collect();
    let mut is_changed = false;
    for (place, old) in known.iter().enumerate() {
        let is_own = |link: &&LinkFacts| shared.setup.permission.is_own(link.ifindex);
        let same_name = |link: &&LinkFacts| link.name == old.name && link.is_ethernet;
        let Some(new) = found.iter().find(same_name).filter(is_own) else { continue };
        if (new.ifindex, new.mac, new.mtu) == (old.ifindex, old.mac, old.mtu) {
            shared.links()[place].facts.has_vlans = new.has_vlans;
            continue;
        }
        if new.ifindex == old.ifindex {
            shared.links()[place].facts.clone_from(new);
        } else if !make_anew_if_due(shared, place, new, &mut links.refusals).await {
            continue;
        }
        let maps = Arc::clone(&shared.state().maps);
        let switched_on = switch_on(shared, place, &maps);
        if let Err(error) = switched_on {
            tracing::warn!(link = new.name, error = %ErrorChain(&error), "cannot switch the link's program on yet");
            // So that the next look sees the change again.
            shared.links()[place].facts = old.clone();
            continue;
        }
        tracing::info!(
            link = new.name,
            ifindex = new.ifindex,
            mtu = new.mtu,
            "the link has changed: its packets are forwarded again"
        );
        is_changed = true;
    }
    if is_changed {
        let facts: Vec<LinkFacts> = shared.links().iter().map(|link| link.facts.clone()).collect();
        next_hops.set_links(own_links(&facts));
        links.have_changed = true;
    }
    Ok(())
}

/// Puts a program on the link that took the place of the one at `place`. If that fails, it is tried again after a pause
/// that grows, because loading costs time. Returns whether it was done now.
async fn make_anew_if_due(
    shared: &Arc<Shared>,
    place: usize,
    new: &LinkFacts,
    refusals: &mut BTreeMap<usize, Refused>,
) -> bool {
    let facts = (new.ifindex, new.mac, new.mtu);
    if refusals.get(&place).is_some_and(|known| known.facts == facts && !known.retry.is_due(clock::now())) {
        return false;
    }
    let before = refusals.remove(&place).filter(|before| before.facts == facts);
    let error = match make_anew(shared, place, new).await {
        Ok(Ok(())) => {
            shared.links()[place].is_followed = false;
            return true;
        }
        Ok(Err(error)) => ErrorChain(&error).to_string(),
        Err(error) => ErrorChain(&error).to_string(),
    };
    if before.as_ref().is_none_or(|before| before.error != error) {
        tracing::warn!(
            link = new.name,
            error,
            "cannot put a program on the link that was made anew; it is tried again"
        );
    }
    let retry = Retry::after(before.map(|before| before.retry), clock::now());
    refusals.insert(place, Refused { facts, error, retry });
    false
}

/// Puts a program on the link that took the place of the one at `place`.
async fn make_anew(
    shared: &Arc<Shared>,
    place: usize,
    link: &LinkFacts,
) -> io::Result<Result<(), PacketError>> {
    let mut links: Vec<LinkFacts> = shared.links().iter().map(|link| link.facts.clone()).collect();
    links[place].clone_from(link);
    // First: some drivers refuse XDP while LRO is on.
    shared.lro.lock().await.keep_off(&links).await;
    let (facts, ladder) = ladders(&shared.setup, links).await.swap_remove(place);
    replace(shared, place, facts, ladder).await
}

/// Tells the programs the link at `place`, and forgets the links that are gone.
fn switch_on(shared: &Shared, place: usize, maps: &Maps) -> io::Result<()> {
    let links = shared.links();
    forget_others(&maps.links, &links.iter().map(|link| link.facts.ifindex).collect())?;
    links[place].switch_on(&maps.links)
}

/// Removes flows that are over, then former backends without flows, then frontends whose
/// drain is over.
fn sweep_all(shared: &Shared) -> io::Result<()> {
    // The walk may take long, so it is done without the lock.
    let maps = Arc::clone(&shared.state().maps);
    let counts = sweep(&maps, now())?;
    let mut state = shared.state();
    state.forget_idle(|id| counts.all.contains_key(&id))?;
    let open = counts.open.clone();
    state.flows = counts;
    drop(state);
    end_drains(shared, |id| open.contains_key(&id))
}

/// Removes the frontends whose drain is over: their time has passed, or no backend has open flows.
fn end_drains(shared: &Shared, is_open: impl Fn(BackendId) -> bool) -> io::Result<()> {
    let mut state = shared.state();
    let drained = state.drained(is_open, clock::now())?;
    let mut removed: Vec<Frontend> = Vec::new();
    let result = drained.into_iter().try_for_each(|frontend| {
        state.remove(&frontend, now())?;
        removed.push(frontend);
        Ok(())
    });
    drop(state);
    for frontend in &removed {
        tracing::info!(%frontend, "drained");
    }
    if !removed.is_empty() {
        shared.changed.notify_one();
    }
    result
}
