// SPDX-License-Identifier: Apache-2.0
//! Small files that outlive the agent, and the lock of their folder. A file is
//! replaced as a whole or not at all.

use std::fs::{self, DirBuilder, File, Metadata, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error_chain::ErrorChain;

/// The name of the lock of a folder.
const LOCK: &str = "lock";

/// The mode of a folder that only its owner may use, and the bits of all others.
const PRIVATE: u32 = 0o700;
const OTHERS: u32 = 0o077;

/// Replaces the file by `content` as JSON. A crash leaves the old content or the
/// new one, never a mixture.
///
/// # Errors
/// The file cannot be written. The old content is still there.
pub fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    write_bytes(path, &serde_json::to_vec(content)?)
}

/// As [`write()`], for a file that is not JSON.
///
/// # Errors
/// As [`write()`].
pub fn write_bytes(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    create(folder)?;
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Makes `folder` so that no other user can look into it, change a file in it or connect to a socket
/// in it. One that exists is narrowed, if llb has used it before or it is empty; others may need
/// what else is in it.
///
/// # Errors
/// The folder cannot be made, or belongs to another user, who could change what llb believes.
pub fn make_private(folder: &Path) -> io::Result<()> {
    create(folder)?;
    // The same folder for all that follows, even if somebody puts another one in its place.
    let opened = File::open(folder)?;
    let found = opened.metadata()?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own && found.uid() != 0 {
        let text = format!(
            "it belongs to user {}, who could change llb's state; name another folder, or give this one to user {own}",
            found.uid()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if found.mode() & OTHERS == 0 {
        return Ok(());
    }
    if found.uid() == own && is_ours(folder, &found)? {
        return opened.set_permissions(Permissions::from_mode(PRIVATE));
    }
    tracing::warn!(
        folder = %folder.display(),
        mode = format!("{:o}", found.mode() & 0o7777),
        "other users have access to the state folder, and llb does not narrow a folder that others may need; name one that is llb's alone"
    );
    Ok(())
}

fn create(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE).create(folder)
}

/// Whether it is empty or llb has locked it before. A folder for all users (with the sticky bit, like /tmp) is not.
fn is_ours(folder: &Path, found: &Metadata) -> io::Result<bool> {
    const STICKY: u32 = 0o1000;
    if found.mode() & STICKY != 0 {
        return Ok(false);
    }
    Ok(has_lock(folder)? || fs::read_dir(folder)?.next().is_none())
}

/// Whether an agent has ever locked this folder.
///
/// # Errors
/// The folder can't be looked into.
pub fn has_lock(folder: &Path) -> io::Result<bool> {
    match folder.join(LOCK).symlink_metadata() {
        Ok(lock) => Ok(lock.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Locks the folder for this process, because two agents with the same folder
/// would undo each other's work. The lock is released when the file is dropped
/// or the process ends. `None` if another process has it.
///
/// # Errors
/// The folder or the lock's file cannot be created.
pub fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    create(folder)?;
    let file = File::create(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The content of a JSON file; `None` if there is no file. A file that cannot be
/// read or understood is logged, renamed to `*.unreadable`, and counts as absent.
pub fn read_or_set_aside<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let error = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => error,
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(content) => return Some(content),
            Err(error) => error.into(),
        },
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".unreadable");
    match fs::rename(path, &aside) {
        Ok(()) => tracing::warn!(
            path = %path.display(),
            error = %ErrorChain(&error),
            "the state file cannot be read; it is ignored, and was renamed to *.unreadable"
        ),
        Err(rename_error) => tracing::warn!(
            path = %path.display(),
            error = %ErrorChain(&error),
            rename_error = %ErrorChain(&rename_error),
            "the state file cannot be read, nor renamed; it is ignored, and the next write replaces it"
        ),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(folder: &Path) -> u32 {
        fs::metadata(folder).unwrap().mode() & 0o7777
    }

    fn with_mode(folder: &Path, mode: u32) {
        fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_state_folder_is_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new");
        make_private(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        with_mode(&folder, 0o755);
        make_private(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700, "empty");
        drop(try_lock(&folder).unwrap().unwrap());
        with_mode(&folder, 0o777);
        make_private(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700, "used by llb before");
    }

    #[test]
    fn a_folder_that_others_may_need_stays_open() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data"), "not llb's").unwrap();
        with_mode(folder.path(), 0o755);
        make_private(folder.path()).unwrap();
        assert_eq!(mode(folder.path()), 0o755);
        let shared = tempfile::tempdir().unwrap();
        with_mode(shared.path(), 0o1777);
        make_private(shared.path()).unwrap();
        assert_eq!(mode(shared.path()), 0o1777);
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return; // Only root can give a folder away.
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(1234), None).unwrap();
        let error = make_private(folder.path()).unwrap_err();
        assert!(error.to_string().contains("belongs to user 1234"), "{error}");
    }
}
