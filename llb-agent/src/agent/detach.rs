// SPDX-License-Identifier: Apache-2.0
//! `llb-agent detach`: removes from the kernel what an agent that has ended left
//! there. A running agent keeps all that it has: nothing is changed while an
//! agent has the state folder, or one of the links.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::addresses::{AddressTable, AgentLockError, AgentLocks, NetlinkAddresses};
use crate::config::AddressTag;
use crate::dataplane::packet;
use crate::model::{AddressKey, VIP_LINK};
use crate::statefile;

/// Removes the packet plane from the links that have programs in `bpf_dir`, and
/// then the VIPs there that nobody serves any more.
pub(super) async fn detach(bpf_dir: &Path, state_dir: PathBuf) -> anyhow::Result<()> {
    // Both are held until the end, so that no agent starts meanwhile.
    let _state_lock = lock_state_folder(&state_dir)?;
    let links = packet::pinned_links(bpf_dir)?;
    let with_vips: Vec<String> = links.iter().cloned().chain([VIP_LINK.to_owned()]).collect();
    let locks = match AgentLocks::take(&with_vips, &state_dir).await {
        Ok(locks) => locks,
        Err(AgentLockError::Taken { link, holder, .. }) => {
            bail!("{holder} has link {link}; stop it first. Nothing was changed")
        }
        Err(error) => return Err(error.into()),
    };
    let detached = packet::detach(bpf_dir);
    // A link that keeps its program keeps its VIPs, too. The others lose both.
    let left = packet::pinned_links(bpf_dir)?;
    let links: Vec<String> = links.into_iter().filter(|link| !left.contains(link)).collect();
    tracing::info!(?links, "detached");
    let others = packet::still_forwarding(&links).await?;
    for link in &others {
        tracing::warn!(
            link,
            "a program of llb that another --bpf-dir keeps is still on the link, so the VIPs there stay: \
             run detach with that --bpf-dir, too"
        );
    }
    let links: Vec<String> = links.into_iter().filter(|link| !others.contains(link)).collect();
    packet::release_neighbours(&links).await?;
    let links = match links.is_empty() {
        true => links,
        false => links.into_iter().chain([VIP_LINK.to_owned()]).collect(),
    };
    let mut addresses = NetlinkAddresses::new(links, AddressTag::Auto, state_dir, Arc::default())?;
    addresses.keep_others_off(locks);
    for link in addresses.observe().await? {
        for known in link.addresses.iter().filter(|known| known.ours) {
            let key = AddressKey { link: link.name.clone(), address: known.net.addr() };
            addresses.remove(&key, known.net.prefix_len()).await?;
            tracing::info!(address = %key, "removed");
        }
    }
    addresses.leave().await?;
    detached.map(drop).map_err(Into::into)
}

/// The lock of the state folder; `None` if no agent has ever used it. Then none is made: it would
/// belong to root, and keep out a service that runs as another user.
fn lock_state_folder(state_dir: &Path) -> anyhow::Result<Option<File>> {
    let failed = || format!("cannot lock --state-dir {}", state_dir.display());
    if !statefile::has_lock(state_dir).with_context(failed)? {
        return Ok(None);
    }
    let lock = statefile::try_lock(state_dir).with_context(failed)?;
    if lock.is_none() {
        bail!(
            "an llb-agent runs with --state-dir {}; stop it first. Nothing was changed",
            state_dir.display()
        );
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_no_agent_has_used_gets_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        for state_dir in [folder.path().to_owned(), folder.path().join("absent")] {
            assert!(lock_state_folder(&state_dir).unwrap().is_none());
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        let held = statefile::try_lock(folder.path()).unwrap().unwrap();
        let refused = lock_state_folder(folder.path()).unwrap_err().to_string();
        assert!(refused.ends_with("stop it first. Nothing was changed"), "{refused}");
        drop(held);
        assert!(lock_state_folder(folder.path()).unwrap().is_some());
    }
}
