// SPDX-License-Identifier: Apache-2.0
//! The files for keepalived, and for `llb-agent share`. Each is replaced as a whole, and only if it changes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::SHARES;
use crate::ownership::{GroupSetup, Numbers, Placement, READY_NOT, configuration};
use crate::statefile;

const CONFIGURATION: &str = "vrrp.conf";
const READY: &str = "ready";
const SHARES_FILE: &str = "shares";
const BOOT: &str = "boot";

/// Another number after each start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A file of the group can't be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}, a file of the group", path.display())]
pub struct PeersError {
    pub(super) verb: &'static str,
    pub(super) path: PathBuf,
    #[source]
    pub(super) source: io::Error,
}

/// The files of one box.
#[derive(Debug)]
pub struct GroupFiles {
    folder: PathBuf,
    /// What keepalived has been told.
    said: Numbers,
    /// What was written last.
    placement: Option<Placement>,
}

impl GroupFiles {
    /// Prepares the folder. After a start of the machine nothing is served, whatever the files say.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn open(folder: &Path) -> Result<Self, PeersError> {
        let mut files = Self { folder: folder.to_owned(), said: Numbers::default(), placement: None };
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let known = fs::read_to_string(files.path(READY).join(BOOT)).unwrap_or_default();
        if boot == known {
            files.said = std::array::from_fn(|share| read_number(&files.ready(share as u8)));
        }
        if files.said.contains(&None) {
            let unknown = (0..SHARES).filter(|share| files.said[usize::from(*share)].is_none());
            unknown.collect::<Vec<_>>().into_iter().try_for_each(|share| files.say(share, READY_NOT))?;
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

    /// What keepalived has been told about each share.
    pub fn said(&self) -> &Numbers {
        &self.said
    }

    /// Tells keepalived how ready this box is for a share.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn say(&mut self, share: u8, number: i32) -> Result<(), PeersError> {
        let known = self.said.get_mut(usize::from(share)).map(|known| known.replace(number));
        if known == Some(Some(number)) {
            return Ok(());
        }
        let path = self.ready(share);
        let written = self.write(&path, format!("{number}\n").as_bytes());
        if written.is_err()
            && let Some(known) = self.said.get_mut(usize::from(share))
        {
            // What keepalived sees.
            *known = read_number(&path);
        }
        written
    }

    /// Nothing is served here: any other box is better.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn give_up_all(&mut self) -> Result<(), PeersError> {
        (0..SHARES).try_for_each(|share| self.say(share, READY_NOT))
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

    fn ready(&self, share: u8) -> PathBuf {
        self.path(READY).join(share.to_string())
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

fn read_number(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
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
        (0..SHARES).for_each(|share| files.say(share, 0).unwrap());
        assert_eq!(ready(folder.path()), ["0\n"; 16]);
        assert_eq!(GroupFiles::open(folder.path()).unwrap().said(), &[Some(0); 16]);
        assert_eq!(ready(folder.path()), ["0\n"; 16], "the agent was started again");
        fs::write(folder.path().join(READY).join(BOOT), "of an earlier start\n").unwrap();
        GroupFiles::open(folder.path()).unwrap();
        assert_eq!(ready(folder.path()), ["-160\n"; 16], "the machine was started again");
    }

    #[test]
    fn after_a_write_that_failed_the_number_is_that_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = GroupFiles::open(folder.path()).unwrap();
        files.say(3, 0).unwrap();
        let in_the_way = folder.path().join(READY).join("3.tmp");
        fs::create_dir(&in_the_way).unwrap();
        files.say(3, READY_NOT).unwrap_err();
        assert_eq!(files.said()[3], Some(0));
        fs::remove_dir(&in_the_way).unwrap();
        files.say(3, READY_NOT).unwrap();
        assert_eq!(ready(folder.path())[3], "-160\n");
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
