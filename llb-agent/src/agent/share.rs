// SPDX-License-Identifier: Apache-2.0
//! What keepalived and people start for a group: `llb-agent share`, `alive` and `members`.
//!
//! `share` looks at the markers and at the file `shares`, and puts VIPs on links or takes them off. It asks neither
//! the agent nor the API, so shares move without them. The agent does the same when it runs; both look at the markers, so
//! it does not matter which one is first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Notify;

use super::admin_client;
use crate::addresses::{AddressTable, NetlinkAddresses};
use crate::config::{AddressTag, AdminTarget};
use crate::error_chain::ErrorChain;
use crate::model::{AddressKey, Link, share_of};
use crate::ownership::{self, Correction, Placement};
use crate::peers::read_placement;

/// The announcements of a VIP at once and after a second; those later are the agent's.
const ANNOUNCING: Duration = Duration::from_millis(1100);
/// Less than keepalived waits.
const ALIVE_LIMIT: Duration = Duration::from_millis(1500);

/// Corrects the addresses. With `announce`, the VIPs of that share that are here are announced again. VIPs are announced
/// for a second; if keepalived takes a share away meanwhile, its announcements end at once.
pub(super) async fn correct(state_dir: PathBuf, announce: Option<u8>) -> anyhow::Result<()> {
    let placement = read_placement(&state_dir)?;
    let changed = Arc::<Notify>::default();
    let links = placement.links.clone();
    let mut addresses = NetlinkAddresses::new(links, AddressTag::Kernel, state_dir, Arc::clone(&changed))?;
    addresses.join_group(Arc::clone(&changed))?;
    addresses.trust(placement.vips.values().flatten().map(|net| net.addr()).collect());
    if !pass(&mut addresses, &placement, announce).await? {
        return Ok(());
    }
    let follow = async {
        loop {
            changed.notified().await;
            if let Err(error) = pass(&mut addresses, &placement, None).await {
                return error;
            }
        }
    };
    match tokio::time::timeout(ANNOUNCING, follow).await {
        Ok(error) => Err(error),
        Err(_) => Ok(()),
    }
}

/// Does once what is to be done. True if VIPs are being announced.
async fn pass(
    addresses: &mut NetlinkAddresses,
    placement: &Placement,
    announce: Option<u8>,
) -> anyhow::Result<bool> {
    let links = addresses.observe().await?;
    let holding = ownership::holding(&placement.links, addresses.markers());
    let (mut is_announcing, mut failed) = (false, Ok(()));
    for correction in ownership::corrections(placement, &holding, &links) {
        let is_addition = matches!(correction, Correction::Add { .. });
        let (Correction::Remove { link, net } | Correction::Add { link, net }) = correction;
        let key = AddressKey { link, address: net.addr() };
        let result = match is_addition {
            true => addresses.add(&key, net.prefix_len()).await.map(drop),
            false => addresses.remove(&key, net.prefix_len()).await,
        };
        is_announcing |= is_addition;
        if let Err(error) = result {
            tracing::warn!(address = %key, error = %ErrorChain(&error), "not corrected");
            failed = Err(error);
        }
    }
    for Link { name, addresses: known } in links {
        for address in known.iter().filter(|known| known.ours).map(|known| known.net.addr()) {
            if announce == Some(share_of(address)) && holding.has(&name, address) {
                addresses.announce(&AddressKey { link: name.clone(), address }).await;
                is_announcing = true;
            }
        }
    }
    failed.context("not all VIPs are where they should be; the agent tries again, if it runs")?;
    Ok(is_announcing)
}

/// Fails if the agent does not answer in time.
pub(super) async fn alive(admin: &AdminTarget) -> anyhow::Result<()> {
    tokio::time::timeout(ALIVE_LIMIT, admin_client::page(admin, "/healthz"))
        .await
        .with_context(|| format!("the agent did not answer within {ALIVE_LIMIT:?}"))?
        .map(drop)
}

/// Prints the shares of the group.
pub(super) async fn members(admin: &AdminTarget) -> anyhow::Result<()> {
    print!("{}", admin_client::page(admin, "/members").await?);
    Ok(())
}
