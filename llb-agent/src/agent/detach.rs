// SPDX-License-Identifier: Apache-2.0
//! `llb-agent detach`: removes from the kernel what an agent that has ended left there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::addresses::{AddressTable, NetlinkAddresses};
use crate::config::AddressTag;
use crate::dataplane::packet;
use crate::model::AddressKey;

/// Removes the packet plane from all links, and then the VIPs that nobody serves any more.
pub(super) async fn detach(bpf_dir: &Path, state_dir: PathBuf) -> anyhow::Result<()> {
    let links = packet::detach(bpf_dir)?;
    tracing::info!(?links, "detached");
    let mut addresses = NetlinkAddresses::new(links, AddressTag::Auto, state_dir, Arc::default())?;
    for link in addresses.observe().await? {
        for known in link.addresses.iter().filter(|known| known.ours) {
            let key = AddressKey { link: link.name.clone(), address: known.net.addr() };
            addresses.remove(&key, known.net.prefix_len()).await?;
            tracing::info!(address = %key, "removed");
        }
    }
    Ok(())
}
