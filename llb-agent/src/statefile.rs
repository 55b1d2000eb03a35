// SPDX-License-Identifier: Apache-2.0
//! Small files that outlive the agent: written whole or not at all.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Replaces the file: a crash leaves the old content or the new, never half.
///
/// # Errors
/// The folder or the disk refuses; the old content is still there.
pub fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    write_bytes(path, &serde_json::to_vec(content)?)
}

/// As [`write()`], for a file with a format of its own.
///
/// # Errors
/// As [`write()`].
pub fn write_bytes(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Holds the folder for this process: two agents with one folder would undo
/// each other's work. Released when the file is dropped, or the process ends;
/// `None` if another process holds it.
///
/// # Errors
/// It can't be made.
pub fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(folder)?;
    let file = File::create(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The content; `None` where there is no file. One that can't be read or makes
/// no sense is reported, renamed to `*.unreadable`, and counts as absent.
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
    // If even that fails the next write replaces the file.
    let _ = fs::rename(path, &aside);
    tracing::warn!(path = %path.display(), %error, "state file is unreadable; it was renamed to *.unreadable and is ignored");
    None
}
