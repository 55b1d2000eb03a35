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
/// each other's work. Released when the file is dropped, or the process ends.
///
/// # Errors
/// Another process holds it, or it can't be made.
pub fn lock(folder: &Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let file = File::create(folder.join("lock"))?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            io::Error::other("another llb-agent uses it; end that one, or give this one a folder of its own")
        }
        TryLockError::Error(error) => error,
    })?;
    Ok(file)
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
