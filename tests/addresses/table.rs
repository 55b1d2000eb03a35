// SPDX-License-Identifier: Apache-2.0
//! The table of addresses under test, and what the reconciler does with it.

use std::path::Path;
use std::sync::Arc;

use llb_agent::addresses::{Addition, AddressError, AddressTable, NetlinkAddresses};
use llb_agent::config::AddressTag;
use llb_agent::model::{AddressKey, LinkAddress};
use llb_tests::wait::wait_until_async;

use super::segment::{LIMIT, LINK};

/// Where no test may write.
pub(crate) const NO_STATE_DIR: &str = "/proc/llb";

pub(crate) fn table(tag: AddressTag, state_dir: &Path) -> NetlinkAddresses {
    NetlinkAddresses::new(vec![LINK.to_owned()], tag, state_dir.to_owned(), Arc::default()).unwrap()
}

pub(crate) fn kernel_table() -> NetlinkAddresses {
    table(AddressTag::Kernel, Path::new(NO_STATE_DIR))
}

/// The address as the table sees it.
pub(crate) async fn observed(table: &mut NetlinkAddresses, address: &str) -> Option<LinkAddress> {
    let links = table.observe().await.unwrap();
    let wanted: std::net::IpAddr = address.parse().unwrap();
    links.first()?.addresses.iter().find(|known| known.net.addr() == wanted).cloned()
}

/// Adds a VIP and waits until it is there.
pub(crate) async fn add(
    table: &mut NetlinkAddresses,
    key: &AddressKey,
    prefix_length: u8,
) -> Result<(), AddressError> {
    let added = wait_until_async(LIMIT, "the VIP to be added", async || {
        Ok(match add_once(table, key, prefix_length).await {
            Ok(Addition::Pending) => None,
            Ok(Addition::Done) => Some(Ok(())),
            // Not an error of the poll, which would only mean "not yet".
            Err(error) => Some(Err(error)),
        })
    });
    added.await.unwrap()
}

async fn add_once(
    table: &mut NetlinkAddresses,
    key: &AddressKey,
    prefix_length: u8,
) -> Result<Addition, AddressError> {
    // The reconciler looks before it acts, too.
    table.observe().await?;
    table.add(key, prefix_length).await
}
