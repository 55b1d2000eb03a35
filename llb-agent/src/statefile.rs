// SPDX-License-Identifier: Apache-2.0
//! Small files that outlive the agent, and the lock of their folder. A file is
//! replaced as a whole or not at all.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error_chain::ErrorChain;

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
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Locks the folder for this process, because two agents with the same folder
/// would undo each other's work. The lock is released when the file is dropped
/// or the process ends. `None` if another process has it.
///
/// # Errors
/// The folder or the lock's file cannot be created.
pub fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(folder)?;
    let file = File::create(folder.join("lock"))?;
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
