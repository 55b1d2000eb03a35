// SPDX-License-Identifier: Apache-2.0
//! The address table under test, and how the reconciler uses it.

use std::path::Path;
use std::sync::Arc;

use llb_agent::addresses::{Addition, AddressError, AddressTable, NetlinkAddresses};
use llb_agent::config::AddressTag;
use llb_agent::model::{AddressKey, LinkAddress};
use llb_tests::wait::wait_until_async;

use super::segment::{LIMIT, LINK};

/// A folder that cannot be written, for tests that need no state file.
pub(crate) const NO_STATE_DIR: &str = "/proc/llb";

pub(crate) fn table(tag: AddressTag, state_dir: &Path) -> NetlinkAddresses {
    NetlinkAddresses::new(vec![LINK.to_owned()], tag, state_dir.to_owned(), Arc::default()).unwrap()
}

pub(crate) fn kernel_table() -> NetlinkAddresses {
    table(AddressTag::Kernel, Path::new(NO_STATE_DIR))
}

/// The address as the table observes it.
pub(crate) async fn observed(table: &mut NetlinkAddresses, address: &str) -> Option<LinkAddress> {
    let links = table.observe().await.unwrap();
    let wanted: std::net::IpAddr = address.parse().unwrap();
    links.first()?.addresses.iter().find(|known| known.net.addr() == wanted).cloned()
}

/// Adds a VIP and waits until it is on the link.
pub(crate) async fn add(
    table: &mut NetlinkAddresses,
    key: &AddressKey,
    prefix_length: u8,
) -> Result<(), AddressError> {
    let added = wait_until_async(LIMIT, "the VIP to be added", async || {
        Ok(match add_once(table, key, prefix_length).await {
            Ok(Addition::Pending) => None,
            Ok(Addition::Done) => Some(Ok(())),
            // As an error of the poll it would only mean "not yet".
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
    // The reconciler also observes before it acts.
    table.observe().await?;
    table.add(key, prefix_length).await
}
