// SPDX-License-Identifier: Apache-2.0
//! The folders in which programs and maps are pinned, the locks on these folders, and their
//! removal. This file knows no eBPF, only files; what has no pin is in `clsact.rs`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, mount};

use super::error::PacketError;
use super::{clsact, link_facts, xdp_removal};
use crate::clock;
use crate::kernel::{BPFFS, is_bpffs};

/// The layout of the maps. An agent with another layout uses another folder; [`detach`]
/// removes the folders of all layouts.
pub(super) const LAYOUT: &str = "v4";

/// The folder of the maps that all links share. No link can have this name: it is longer than
/// 15 characters.
pub(super) const SHARED: &str = "shared_between_links";

/// How long to wait for a lock. A killed process releases its locks one by one, and later
/// than the lock of its state folder, which this agent already has.
const RETRY_LIMIT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The folder of one link. It is locked until this is dropped, or until the process ends in
/// any way.
#[derive(Debug)]
pub(super) struct PinFolder {
    path: PathBuf,
    lock: File,
}

impl PinFolder {
    /// Makes the folder and locks it. If `inherited` is its lock, that one is used.
    pub(super) fn open(bpf_dir: &Path, link: &str, inherited: Option<File>) -> Result<Self, PacketError> {
        let path = bpf_dir.join(LAYOUT).join(folder_name(link));
        fs::create_dir_all(&path).map_err(|error| PacketError::pin("make", &path, error))?;
        let lock = match inherited.filter(|file| is_of(file, &path)) {
            Some(file) => file,
            None => lock(&path, link)?,
        };
        Ok(Self { path, lock })
    }

    /// The lock, for the agent that takes over. The folder is locked until both have dropped it.
    pub(super) fn lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// The path of the folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder with all that is pinned in it.
    pub(super) fn remove(&self) -> Result<(), PacketError> {
        remove(&self.path)
    }

    /// The path of the pin with this name.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// The links that have something pinned in `bpf_dir`, in any layout.
///
/// # Errors
/// A folder can't be read.
pub fn pinned_links(bpf_dir: &Path) -> Result<Vec<String>, PacketError> {
    let mut links = Vec::new();
    if is_bpffs(bpf_dir) {
        for layout in folders(bpf_dir)?.into_iter().filter(|folder| is_layout(folder)) {
            let names =
                folders(&layout)?.into_iter().map(|folder| link_name(folder.file_name().unwrap_or_default()));
            links.extend(names.filter(|link| link != SHARED));
        }
    }
    links.sort_unstable();
    links.dedup();
    Ok(links)
}

/// Takes llb's programs off all links and forgets their counters: removes all that llb has
/// pinned in `bpf_dir`. Idempotent. Returns the links that had a program and have none now.
///
/// # Errors
/// The first one. A running agent holds one of the links ([`PacketError::Busy`]), a driver keeps its program
/// ([`PacketError::XdpKept`]), or a pin can't be removed. That link and the maps stay as they are; the other links
/// have no program any more.
pub fn detach(bpf_dir: &Path) -> Result<Vec<String>, PacketError> {
    let mut links = Vec::new();
    // On any other file system nothing can be pinned, so nothing there belongs to llb.
    if !is_bpffs(bpf_dir) {
        return Ok(links);
    }
    let layouts = folders(bpf_dir)?.into_iter().filter(|folder| is_layout(folder));
    first_error(layouts.map(|layout| detach_layout(&layout, &mut links)))?;
    // A mount point, or a folder with files of others, stays.
    let _ = fs::remove_dir(bpf_dir);
    links.sort_unstable();
    Ok(links)
}

/// Adds to `links` those that have no program of this layout any more.
fn detach_layout(layout: &Path, links: &mut Vec<String>) -> Result<(), PacketError> {
    let name = |folder: &Path| link_name(folder.file_name().unwrap_or_default());
    let (shared, of_links): (Vec<_>, Vec<_>) =
        folders(layout)?.into_iter().partition(|folder| name(folder) == SHARED);
    first_error(of_links.iter().map(|folder| {
        let link = name(folder);
        let _lock = lock(folder, &link)?;
        remove_program(&link, link_facts::index_of(&link), folder)?;
        links.push(link);
        Ok(())
    }))?;
    for folder in shared {
        let _lock = lock(&folder, SHARED)?;
        remove(&folder)?;
    }
    fs::remove_dir(layout).map_err(|error| PacketError::pin("remove", layout, error))
}

/// The first error of `results`. All of them are made.
fn first_error(results: impl Iterator<Item = Result<(), PacketError>>) -> Result<(), PacketError> {
    results.fold(Ok(()), Result::and)
}

/// Takes the programs off `link`, and removes its folder with all that is pinned there.
///
/// # Errors
/// The driver keeps the program at XDP ([`PacketError::XdpKept`]): then nothing is changed. Or a pin can't be removed.
pub(super) fn remove_program(link: &str, ifindex: Option<u32>, folder: &Path) -> Result<(), PacketError> {
    xdp_removal::take_off(link, folder)?;
    clsact::detach(ifindex, folder)?;
    remove(folder)
}

/// Removes the folders of this layout if they are empty. A mount point, or a folder with files
/// of others, stays.
pub(super) fn forget_empty(bpf_dir: &Path) {
    let _ = fs::remove_dir(bpf_dir.join(LAYOUT)).and_then(|()| fs::remove_dir(bpf_dir));
}

pub(super) fn remove(folder: &Path) -> Result<(), PacketError> {
    for pin in entries(folder)? {
        let removed = if pin.is_dir() { fs::remove_dir(&pin) } else { fs::remove_file(&pin) };
        removed.map_err(|error| PacketError::pin("remove", &pin, error))?;
    }
    fs::remove_dir(folder).map_err(|error| PacketError::pin("remove", folder, error))
}

/// Makes sure that pins can be made in `bpf_dir`. It mounts a bpffs, but only at the one place
/// where every tool expects it.
///
/// # Errors
/// There is none, and it cannot be mounted.
pub fn provide_bpffs(bpf_dir: &Path) -> Result<(), PacketError> {
    let existing = bpf_dir.ancestors().find(|path| path.exists()).unwrap_or(bpf_dir);
    if is_bpffs(existing) {
        return Ok(());
    }
    if !bpf_dir.starts_with(BPFFS) {
        return Err(PacketError::NotBpffs { path: bpf_dir.to_owned() });
    }
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), None)
        .map_err(|errno| PacketError::Mount { path: BPFFS.into(), source: errno.into() })
}

fn lock(folder: &Path, link: &str) -> Result<File, PacketError> {
    let file = File::open(folder).map_err(|error| PacketError::pin("open", folder, error))?;
    let give_up = clock::now_std() + RETRY_LIMIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if clock::now_std() < give_up => pause(),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(PacketError::Busy { link: link.to_owned(), path: folder.to_owned() });
            }
            Err(errno) => return Err(PacketError::pin("lock", folder, io::Error::from(errno))),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the wait for a condition with a limit")]
fn pause() {
    std::thread::sleep(RETRY_PAUSE);
}

fn is_of(file: &File, path: &Path) -> bool {
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(place) == fs::metadata(path).ok().map(place)
}

/// A bpffs allows no dots in names. No link has a colon in its name, so that takes their place.
fn folder_name(link: &str) -> String {
    link.replace('.', ":")
}

pub(super) fn link_name(folder: &OsStr) -> String {
    folder.to_string_lossy().replace(':', ".")
}

/// Whether this is the folder of a layout: `v` and a number.
pub(super) fn is_layout(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

pub(super) fn folders(path: &Path) -> Result<Vec<PathBuf>, PacketError> {
    Ok(entries(path)?.into_iter().filter(|entry| entry.is_dir()).collect())
}

pub(super) fn entries(path: &Path) -> Result<Vec<PathBuf>, PacketError> {
    let read = || fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    read().map_err(|error| PacketError::pin("read", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_name_is_kept_in_the_folder_name() {
        assert_eq!(folder_name("eth0.100"), "eth0:100");
        assert_eq!(link_name(OsStr::new(&folder_name("eth0.100"))), "eth0.100");
    }

    #[test]
    fn nothing_outside_a_bpffs_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("v1");
        fs::create_dir(&file).unwrap();
        assert_eq!(detach(folder.path()).unwrap(), [""; 0]);
        assert!(file.exists());
        assert_eq!(detach(&folder.path().join("gone")).unwrap(), [""; 0]);
    }

    #[test]
    fn a_link_that_keeps_its_pins_keeps_the_maps_but_no_other_link() {
        let layout = tempfile::tempdir().unwrap();
        let names = ["first", "kept", "other", SHARED];
        let [first, kept, other, shared] = names.map(|name| layout.path().join(name));
        for folder in [&first, &other, &shared] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("pin"), "").unwrap();
        }
        // Such a thing can't be removed.
        fs::create_dir_all(kept.join("pin/inside")).unwrap();
        let mut links = Vec::new();
        let error = detach_layout(layout.path(), &mut links).unwrap_err();
        assert!(matches!(error, PacketError::Pin { .. }), "{error}");
        links.sort_unstable();
        assert_eq!(links, ["first", "other"]);
        assert_eq!(
            [first, kept.clone(), other, shared].map(|folder| folder.exists()),
            [false, true, false, true]
        );
        fs::remove_dir_all(kept).unwrap();
        detach_layout(layout.path(), &mut links).unwrap();
        assert!(!layout.path().exists());
        fs::create_dir(layout.path()).unwrap();
    }

    #[test]
    fn a_bpffs_is_mounted_at_its_own_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let error = provide_bpffs(&folder.path().join("llb")).unwrap_err();
        assert!(matches!(error, PacketError::NotBpffs { .. }), "{error}");
    }

    #[test]
    fn the_second_lock_on_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path(), "eth0").unwrap();
        assert!(matches!(lock(folder.path(), "eth0"), Err(PacketError::Busy { .. })));
        drop(first);
        lock(folder.path(), "eth0").unwrap();
    }

    #[test]
    fn a_lock_is_waited_for_that_a_killed_agent_still_has() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path(), "eth0").unwrap();
        let other = std::thread::spawn(move || {
            pause();
            drop(first);
        });
        lock(folder.path(), "eth0").unwrap();
        other.join().unwrap();
    }
}
