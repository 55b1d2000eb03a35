// SPDX-License-Identifier: Apache-2.0
//! The file that records which addresses are llb's, for kernels that cannot tag
//! them (see `AddressTag`). It does not say which addresses should exist or do
//! exist: an address is llb's only if it is recorded here *and* is on the link.
//!
//! An address is recorded before it is added, and its record is erased after it
//! was removed. So a crash in between can leave a record without an address, but
//! never an address without a record.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::error::AddressError;
use crate::statefile;

const FILE_NAME: &str = "addresses.json";

/// Differs after each boot. Addresses do not survive a boot, so records must not.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file and its content.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    content: Content,
    /// Addresses that are recorded on disk, but not added yet, so they are not llb's.
    ahead: BTreeSet<OwnAddress>,
}

/// An address that llb added.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct OwnAddress {
    /// The name of the link when the address was added.
    pub(super) link: String,
    /// The number of the link. It stays when the link is renamed, and differs from
    /// that of a later link with the same name.
    pub(super) index: u32,
    /// The address with its prefix length.
    pub(super) net: IpNet,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    boot_id: String,
    addresses: BTreeSet<OwnAddress>,
}

impl StateFile {
    /// Reads `<state_dir>/addresses.json`. A file that is missing or from an earlier
    /// boot counts as empty; so does one that cannot be read, with a warning.
    ///
    /// # Errors
    /// The id of the boot cannot be read.
    pub(super) fn open(state_dir: &Path) -> Result<Self, AddressError> {
        let boot_id = fs::read_to_string(BOOT_ID).map_err(AddressError::Read)?;
        Ok(Self::open_in_boot(state_dir, boot_id.trim()))
    }

    fn open_in_boot(state_dir: &Path, boot_id: &str) -> Self {
        let path = state_dir.join(FILE_NAME);
        // With an unreadable file llb owns nothing, so no address on the links is touched.
        let mut content: Content = statefile::read_or_set_aside(&path).unwrap_or_default();
        if content.boot_id != boot_id {
            content = Content { boot_id: boot_id.to_owned(), addresses: BTreeSet::new() };
        }
        Self { path, content, ahead: BTreeSet::new() }
    }

    /// Whether llb added this address.
    pub(super) fn contains(&self, link: &str, index: u32, net: IpNet) -> bool {
        self.content.addresses.contains(&OwnAddress { link: link.to_owned(), index, net })
    }

    /// Records all of `coming` by one write, so that [`StateFile::insert`] need not
    /// write for each of them. The next [`StateFile::retain`] erases those that were
    /// not inserted by then.
    ///
    /// # Errors
    /// The file cannot be written. `insert` tries again.
    pub(super) async fn write_ahead(&mut self, coming: Vec<OwnAddress>) -> Result<(), AddressError> {
        let before = self.ahead.clone();
        self.ahead.extend(coming.into_iter().filter(|own| !self.content.addresses.contains(own)));
        if self.ahead == before {
            return Ok(());
        }
        let written = self.write().await;
        if written.is_err() {
            self.ahead = before;
        }
        written
    }

    /// Records an address. It is on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written. The address is not recorded.
    pub(super) async fn insert(&mut self, address: OwnAddress) -> Result<(), AddressError> {
        let is_written = self.ahead.remove(&address);
        if !self.content.addresses.insert(address.clone()) || is_written {
            return Ok(());
        }
        let written = self.write().await;
        if written.is_err() {
            self.content.addresses.remove(&address);
        }
        written
    }

    /// Erases all records for which `keep` is false. Writes only if that changes
    /// the file.
    ///
    /// # Errors
    /// The file cannot be written. Nothing is erased.
    pub(super) async fn retain(&mut self, keep: impl Fn(&OwnAddress) -> bool) -> Result<(), AddressError> {
        let erased: Vec<OwnAddress> =
            self.content.addresses.iter().filter(|known| !keep(known)).cloned().collect();
        if erased.is_empty() && self.ahead.is_empty() {
            return Ok(());
        }
        self.ahead.clear();
        self.content.addresses.retain(keep);
        let written = self.write().await;
        if written.is_err() {
            self.content.addresses.extend(erased);
        }
        written
    }

    async fn write(&self) -> Result<(), AddressError> {
        let failed = |source| AddressError::StateFile { path: self.path.display().to_string(), source };
        let mut content = self.content.clone();
        content.addresses.extend(self.ahead.iter().cloned());
        let content = serde_json::to_vec(&content).map_err(|error| failed(error.into()))?;
        let path = self.path.clone();
        // A worker thread that waited for the disk would stall its connections.
        tokio::task::spawn_blocking(move || statefile::write_bytes(&path, &content))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(net: &str) -> OwnAddress {
        OwnAddress { link: "eth0".to_owned(), index: 2, net: net.parse().unwrap() }
    }

    #[tokio::test]
    async fn a_record_survives_a_restart_but_not_a_reboot() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("made/by/llb");
        let own = address("192.0.2.5/24");
        let mut file = StateFile::open_in_boot(&state_dir, "boot-1");
        file.insert(own.clone()).await.unwrap();

        let restarted = StateFile::open_in_boot(&state_dir, "boot-1");
        assert!(restarted.contains("eth0", 2, own.net));
        assert!(!restarted.contains("eth1", 2, own.net), "another link");
        assert!(!restarted.contains("eth0", 3, own.net), "another link with the same name");
        assert!(!restarted.contains("eth0", 2, "192.0.2.5/32".parse().unwrap()), "another prefix");

        let mut rebooted = StateFile::open_in_boot(&state_dir, "boot-2");
        assert!(!rebooted.contains("eth0", 2, own.net));
        rebooted.insert(address("192.0.2.6/24")).await.unwrap();
        assert!(!StateFile::open_in_boot(&state_dir, "boot-2").contains("eth0", 2, own.net));
    }

    #[tokio::test]
    async fn an_address_written_ahead_is_not_llbs_before_it_is_added() {
        let directory = tempfile::tempdir().unwrap();
        let (added, never) = (address("192.0.2.5/24"), address("192.0.2.6/24"));
        let mut file = StateFile::open_in_boot(directory.path(), "boot-1");
        file.write_ahead(vec![added.clone(), never.clone()]).await.unwrap();
        let on_disk = || StateFile::open_in_boot(directory.path(), "boot-1").content.addresses;
        assert_eq!(on_disk(), [added.clone(), never.clone()].into());
        assert!(!file.contains("eth0", 2, added.net), "someone else may add it first");

        fs::remove_file(directory.path().join(FILE_NAME)).unwrap();
        file.insert(added.clone()).await.unwrap();
        assert!(file.contains("eth0", 2, added.net));
        assert!(!directory.path().join(FILE_NAME).exists(), "it is not written again");
        file.retain(|_| true).await.unwrap();
        assert_eq!(on_disk(), [added].into(), "an address that was not added is erased");
    }

    #[tokio::test]
    async fn an_erased_record_is_gone_from_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let own = address("2001:db8::5/64");
        let mut file = StateFile::open_in_boot(directory.path(), "boot-1");
        file.insert(own.clone()).await.unwrap();
        file.retain(|known| *known != own).await.unwrap();
        assert!(!StateFile::open_in_boot(directory.path(), "boot-1").contains("eth0", 2, own.net));
    }

    #[test]
    fn with_a_corrupt_file_no_address_is_llbs() {
        let directory = tempfile::tempdir().unwrap();
        for bytes in ["", "{", "[]", "\0\0\0\0", r#"{"boot_id":"boot-1","addresses":[{"link":"eth0"}]}"#] {
            fs::write(directory.path().join(FILE_NAME), bytes).unwrap();
            let file = StateFile::open_in_boot(directory.path(), "boot-1");
            assert!(file.content.addresses.is_empty(), "{bytes}");
        }
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_written_is_not_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let in_the_way = directory.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        let own = address("192.0.2.5/24");
        let mut file = StateFile::open_in_boot(&in_the_way, "boot-1");
        let error = file.insert(own.clone()).await.unwrap_err();
        assert!(matches!(error, AddressError::StateFile { .. }), "{error}");
        assert!(!file.contains("eth0", 2, own.net));
    }
}
