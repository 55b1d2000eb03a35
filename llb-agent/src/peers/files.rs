// SPDX-License-Identifier: Apache-2.0
//! The files for keepalived, and for `llb-agent share`. Each is replaced as a whole, and only if it changes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::SHARES;
use crate::ownership::{GroupSetup, Placement, READY_IN_FULL, READY_NOT, configuration};
use crate::statefile;

const CONFIGURATION: &str = "vrrp.conf";
const READY: &str = "ready";
const SHARES_FILE: &str = "shares";
const BOOT: &str = "boot";

/// Another number after each start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A file of the group can't be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}, which keepalived or `llb-agent share` needs", path.display())]
pub struct PeersError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The files of one box.
#[derive(Debug)]
pub struct GroupFiles {
    folder: PathBuf,
    /// What was written last.
    ready: Option<i32>,
    placement: Option<Placement>,
}

impl GroupFiles {
    /// Prepares the folder. After a start of the machine nothing is served, whatever the files say.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn open(folder: &Path) -> Result<Self, PeersError> {
        let mut files = Self { folder: folder.to_owned(), ready: None, placement: None };
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let known = fs::read_to_string(files.path(READY).join(BOOT)).unwrap_or_default();
        let last = files.path(READY).join((SHARES - 1).to_string());
        if boot != known || !last.exists() {
            files.set_ready(false)?;
            files.write(&files.path(READY).join(BOOT), boot.as_bytes())?;
        }
        Ok(files)
    }

    /// Writes the configuration. True if it is another one than before.
    ///
    /// # Errors
    /// It can't be written.
    pub fn configure(&self, setup: &GroupSetup) -> Result<bool, PeersError> {
        let (path, text) = (self.path(CONFIGURATION), configuration(setup));
        if fs::read(&path).is_ok_and(|known| known == text.as_bytes()) {
            return Ok(false);
        }
        self.write(&path, text.as_bytes())?;
        Ok(true)
    }

    /// Says whether this box serves what it should.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn set_ready(&mut self, is_ready: bool) -> Result<(), PeersError> {
        let ready = if is_ready { READY_IN_FULL } else { READY_NOT };
        if self.ready == Some(ready) {
            return Ok(());
        }
        for share in 0..SHARES {
            let path = self.path(READY).join(share.to_string());
            self.write(&path, format!("{ready}\n").as_bytes())?;
        }
        self.ready = Some(ready);
        Ok(())
    }

    /// Says which VIPs this box serves if it has their shares.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn place(&mut self, placement: Placement) -> Result<(), PeersError> {
        if self.placement.as_ref() == Some(&placement) {
            return Ok(());
        }
        let path = self.path(SHARES_FILE);
        statefile::write(&path, &placement).map_err(|source| PeersError { verb: "write", path, source })?;
        self.placement = Some(placement);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<(), PeersError> {
        statefile::write_bytes(path, content).map_err(|source| PeersError {
            verb: "write",
            path: path.to_owned(),
            source,
        })
    }
}

/// What the agent with this state folder has written last. Nothing if it has never been in a group.
///
/// # Errors
/// The file can't be read or understood.
pub fn read_placement(folder: &Path) -> Result<Placement, PeersError> {
    let path = folder.join(SHARES_FILE);
    let read = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Placement::default()),
        Err(error) => Err(error),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
    };
    read.map_err(|source| PeersError { verb: "read", path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(folder: &Path) -> Vec<String> {
        let read = |share: u8| fs::read_to_string(folder.join(READY).join(share.to_string())).unwrap();
        (0..SHARES).map(read).collect()
    }

    #[test]
    fn a_restart_leaves_readiness_as_it_is_and_a_reboot_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = GroupFiles::open(folder.path()).unwrap();
        assert_eq!(ready(folder.path()), ["-160\n"; 16]);
        files.set_ready(true).unwrap();
        assert_eq!(ready(folder.path()), ["0\n"; 16]);
        GroupFiles::open(folder.path()).unwrap();
        assert_eq!(ready(folder.path()), ["0\n"; 16], "the agent was started again");
        fs::write(folder.path().join(READY).join(BOOT), "of an earlier start\n").unwrap();
        GroupFiles::open(folder.path()).unwrap();
        assert_eq!(ready(folder.path()), ["-160\n"; 16], "the machine was started again");
    }

    #[test]
    fn the_file_of_shares_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_placement(folder.path()).unwrap(), Placement::default());
        let placement = Placement {
            links: vec!["eth0".to_owned()],
            vips: [("eth0".to_owned(), ["192.0.2.20/24".parse().unwrap()].into())].into(),
        };
        GroupFiles::open(folder.path()).unwrap().place(placement.clone()).unwrap();
        assert_eq!(read_placement(folder.path()).unwrap(), placement);
        fs::write(folder.path().join(SHARES_FILE), "{").unwrap();
        assert!(read_placement(folder.path()).is_err());
    }
}
