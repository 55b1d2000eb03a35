// SPDX-License-Identifier: Apache-2.0
//! Asks the drivers of the links, and puts programs at other hooks where `ladder.rs` says so. Flows stay: all programs
//! use the same maps.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::error::PacketError;
use super::hooks::{Allowed, Ladder};
use super::ladder::{Now, may_have_xdp, to_leave_xdp, to_try_again};
use super::link_facts::LinkFacts;
use super::loader::reload;
use super::return_path;
use super::setup::PacketSetup;
use super::shared::Shared;
use super::xdp_loss::{is_loss, problems};
use crate::config::XdpMode;
use crate::error_chain::ErrorChain;
use crate::model::Problem;
use crate::netlink::{Connection, Driver, drivers};

/// Which hooks the operator allows.
fn allowed(setup: &PacketSetup) -> Allowed {
    Allowed { datapath: setup.datapath, xdp_mode: setup.config.xdp_mode }
}

/// The ladder of each of these links, which are all.
pub(super) async fn ladders(setup: &PacketSetup, links: Vec<LinkFacts>) -> Vec<(LinkFacts, Ladder)> {
    let allowed = allowed(setup);
    let drivers = ask(allowed, &links).await.inspect_err(|error| {
        let error = ErrorChain(error);
        tracing::warn!(%error, "cannot ask the drivers of links; a link with VLANs gets no XDP under auto");
    });
    let driver = |link: &LinkFacts| match &drivers {
        Ok(drivers) => drivers.get(&link.ifindex).cloned().unwrap_or(Driver::unknown()),
        Err(_) => Driver::not_asked(),
    };
    let links: Vec<(LinkFacts, Driver)> =
        links.into_iter().map(|link| (link.clone(), driver(&link))).collect();
    let never = allowed.never_taking(links.iter().map(|(link, driver)| (link, driver)));
    let ladder = |(link, driver): &(LinkFacts, Driver)| (link.clone(), allowed.ladder(link, driver, never));
    links.iter().map(ladder).collect()
}

/// What the drivers say; nothing if it does not matter.
async fn ask(allowed: Allowed, links: &[LinkFacts]) -> io::Result<BTreeMap<u32, Driver>> {
    if !may_have_xdp(allowed, links.iter()) {
        return Ok(BTreeMap::new());
    }
    let indexes: Vec<u32> = links.iter().map(|link| link.ifindex).collect();
    drivers(&indexes).await
}

/// Tries the hooks of links again if something has changed, keeps LRO off, and notes problems: which links lose what XDP
/// sends, and what keeps clients from being answered by the routes.
pub(super) async fn look_at_links(shared: &Arc<Shared>) {
    let allowed = allowed(&shared.setup);
    // First, because it changes what the hooks are tried with.
    let lro = shared.lro.lock().await.keep_off(&facts(shared)).await;
    let is_kept = shared.links().iter().any(|link| link.kept_xdp.is_some());
    let losses = match is_kept || may_have_xdp(allowed, facts(shared).iter()) {
        true => try_all_again(shared, allowed).await.unwrap_or_else(|error| {
            tracing::debug!(error = %ErrorChain(&error), "cannot ask the drivers of links; they keep what they have");
            shared.problems().iter().filter(|problem| is_loss(problem)).cloned().collect()
        }),
        false => Vec::new(),
    };
    let are_v4 = shared.state().image.frontends().map(|served| served.frontend.vip.is_ipv4()).collect();
    let routes = return_path::problems(shared.setup.config.return_path, &are_v4);
    note(shared, [losses, routes, lro].concat());
}

/// Tries the hooks again where that is due. Returns which links lose what XDP sends.
///
/// # Errors
/// The drivers can't be asked.
async fn try_all_again(shared: &Arc<Shared>, allowed: Allowed) -> io::Result<Vec<Problem>> {
    let mut links = read(shared, allowed).await?;
    let mut are_tried = true;
    for decide in [to_try_again, to_leave_xdp] {
        let due = decide(allowed, &links);
        if !due.is_empty() {
            for (place, ladder) in due {
                are_tried &= try_again(shared, place, ladder).await;
            }
            shared.changed.notify_one();
            links = read(shared, allowed).await?;
        }
    }
    for (link, now) in shared.links().iter_mut().zip(&links) {
        // Else the next look would not see the change any more.
        if let Some(now) = now.as_ref().filter(|now| are_tried && now.facts == link.facts) {
            link.tried_with = Some(now.conditions());
        }
    }
    let senders: Vec<_> = links.iter().flatten().map(Now::sender).collect();
    Ok(problems(&senders, allowed.xdp_mode == XdpMode::Native))
}

fn facts(shared: &Shared) -> Vec<LinkFacts> {
    shared.links().iter().map(|link| link.facts.clone()).collect()
}

/// The links by their places. `None`: it is away, which is no news; a problem of its own says so.
///
/// # Errors
/// The drivers can't be asked.
async fn read(shared: &Shared, allowed: Allowed) -> io::Result<Vec<Option<Now>>> {
    let facts = facts(shared);
    let drivers = ask(allowed, &facts).await?;
    let is_asked = may_have_xdp(allowed, facts.iter());
    let links = shared.links();
    let now = links.iter().map(|link| {
        Some(Now {
            facts: link.facts.clone(),
            driver: if is_asked { drivers.get(&link.facts.ifindex)?.clone() } else { Driver::unknown() },
            hook: link.hook,
            tried_with: link.tried_with.clone(),
            refusal: link.refusal.clone(),
            kept_xdp: link.kept_xdp.clone(),
            has_kept_xdp: link.has_kept_xdp,
        })
    });
    Ok(now.collect())
}

/// Tries the hooks of the link at `place`. `false` if that was not possible now.
async fn try_again(shared: &Arc<Shared>, place: usize, ladder: Ladder) -> bool {
    let known = shared.links()[place].facts.clone();
    // The program that is there now is named by the kernel: only then it is replaced, and not removed first.
    let facts = match fresh(&known).await {
        // Other changes are for the next look, which tells them to everything else, too.
        Ok(Some(fresh)) => LinkFacts { xdp: fresh.xdp, ..known },
        // It is away; when it comes back, it gets a program.
        Ok(None) => return true,
        Err(error) => {
            let error = ErrorChain(&error);
            tracing::warn!(link = known.name, %error, "cannot read the link that has changed; its program stays");
            return false;
        }
    };
    let (link, mtu) = (facts.name.clone(), facts.mtu);
    let (has_kept_xdp, is_followed) = {
        let links = shared.links();
        (links[place].has_kept_xdp, links[place].is_followed)
    };
    let done = match replace(shared, place, facts, ladder).await {
        Ok(done) => done.map_err(|error| ErrorChain(&error).to_string()),
        Err(error) => Err(ErrorChain(&error).to_string()),
    };
    let place = &mut shared.links()[place];
    match done {
        Ok(()) => {
            place.has_kept_xdp |= has_kept_xdp;
            place.is_followed &= is_followed;
            let (hook, why) = (place.hook, &place.why);
            tracing::info!(link, mtu, %hook, %why, "the link has changed: its hooks were tried again");
        }
        Err(_) if shared.setup.turn.take().is_none() => return false,
        Err(error) => {
            tracing::warn!(
                link,
                mtu,
                error,
                "the link has changed, and takes no program now; the old one stays"
            );
            place.refusal = Some(error);
        }
    }
    true
}

/// The same link as the kernel describes it now.
async fn fresh(known: &LinkFacts) -> io::Result<Option<LinkFacts>> {
    let all = LinkFacts::read(&mut Connection::open()?).await?;
    let is_same = |link: &LinkFacts| (link.ifindex, &link.name) == (known.ifindex, &known.name);
    Ok(all.into_iter().find(is_same))
}

/// Loads the program for the link at `place`.
pub(super) async fn replace(
    shared: &Arc<Shared>,
    place: usize,
    facts: LinkFacts,
    ladder: Ladder,
) -> io::Result<Result<(), PacketError>> {
    let shared = Arc::clone(shared);
    let load = move || {
        let lock = shared.links()[place].folder.lock().ok();
        let link = reload(&shared.setup, (&facts, &ladder), shared.capacities, &shared.folder, lock)?;
        shared.links()[place] = link;
        Ok(())
    };
    tokio::task::spawn_blocking(load).await.map_err(io::Error::other)
}

fn note(shared: &Shared, found: Vec<Problem>) {
    let is_news = *shared.problems() != found;
    *shared.problems() = found;
    if is_news {
        shared.changed.notify_one();
    }
}
