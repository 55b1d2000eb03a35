// SPDX-License-Identifier: Apache-2.0
//! The Unix socket of the admin endpoint: who may use it, and how it takes the place of an older
//! one. Requests are not its business.
//!
//! A new agent makes its socket under another name, and gives it the real one when it is in charge.
//! So the path always leads to an agent, and never to one that ends without being in charge.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::Group;

use crate::config::AdminSocketConfig;
use crate::error_chain::ErrorChain;

/// Owner and group may connect, which takes the right to write.
const MODE: u32 = 0o660;

/// The Unix socket can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminSocketError {
    /// It can't be made.
    #[error("cannot listen on --admin-socket {path}")]
    Socket {
        /// As given.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no such group.
    #[error("--admin-group {name}: there is no such group")]
    NoGroup {
        /// As given.
        name: String,
    },
    /// The group can't be set.
    #[error("cannot give --admin-socket to --admin-group {name}; run llb-agent as a member of that group")]
    Group {
        /// As given.
        name: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A socket that listens and has not its real name yet.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    draft: Draft,
}

/// The path of a socket until it is renamed. Removed when dropped.
#[derive(Debug)]
struct Draft(PathBuf);

impl AdminSocket {
    /// Makes the socket. Giving it to a group may need more rights than serving does.
    ///
    /// # Errors
    /// It can't be made, or not be given to its group.
    pub fn open(config: &AdminSocketConfig) -> Result<Self, AdminSocketError> {
        let path = config.path.clone();
        let failed = |source| AdminSocketError::Socket { path: path.clone(), source };
        let draft = Draft(path.with_extension(format!("{}.sock", std::process::id())));
        let listener = listen(&draft.0).map_err(failed)?;
        if let Some(name) = &config.group {
            let group = number_of(name).ok_or_else(|| AdminSocketError::NoGroup { name: name.clone() })?;
            lchown(&draft.0, None, Some(group))
                .map_err(|source| AdminSocketError::Group { name: name.clone(), source })?;
        }
        fs::set_permissions(&draft.0, Permissions::from_mode(MODE)).map_err(failed)?;
        Ok(Self { listener, path, draft })
    }

    /// Gives it its real name; an older socket there gets no new callers. `None` if that fails: an
    /// agent that is in charge goes on without.
    pub(super) fn publish(self) -> Option<tokio::net::UnixListener> {
        let published = fs::rename(&self.draft.0, &self.path)
            .and_then(|()| self.listener.set_nonblocking(true))
            .and_then(|()| tokio::net::UnixListener::from_std(self.listener));
        match published {
            Ok(listener) => {
                tracing::info!(path = %self.path.display(), "admin endpoint");
                Some(listener)
            }
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(error = %ErrorChain(&error), "nobody can use --admin-socket {path}");
                None
            }
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is gone already if it was renamed.
        let _ = fs::remove_file(&self.0);
    }
}

fn listen(draft: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = draft.parent().filter(|folder| !folder.exists()) {
        fs::create_dir(folder)?;
    }
    // Of a process with the same number that was killed.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(draft),
    }
}

fn number_of(group: &str) -> Option<u32> {
    let by_name = || Some(Group::from_name(group).ok()??.gid.as_raw());
    group.parse().ok().or_else(by_name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn config(folder: &Path, group: Option<&str>) -> AdminSocketConfig {
        AdminSocketConfig { path: folder.join("llb/admin.sock"), group: group.map(str::to_owned) }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join("llb")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn the_socket_is_for_owner_and_group_and_takes_the_place_of_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), None);
        let first = AdminSocket::open(&config).unwrap().publish().unwrap();
        let second = AdminSocket::open(&config).unwrap();
        assert_eq!(names(folder.path()).len(), 2, "the older one can be reached until then");
        let second = second.publish().unwrap();
        assert_eq!(names(folder.path()), ["admin.sock"]);
        assert_eq!(fs::metadata(&config.path).unwrap().mode() & 0o777, 0o660);
        let _caller = tokio::net::UnixStream::connect(&config.path).await.unwrap();
        second.accept().await.unwrap();
        drop(first);
    }

    #[test]
    fn a_socket_that_is_not_used_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(AdminSocket::open(&config(folder.path(), None)).unwrap());
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn the_group_is_given_by_name_or_number() {
        assert_eq!((number_of("root"), number_of("17")), (Some(0), Some(17)));
        let folder = tempfile::tempdir().unwrap();
        let error = AdminSocket::open(&config(folder.path(), Some("no-such-group"))).unwrap_err();
        assert_eq!(error.to_string(), "--admin-group no-such-group: there is no such group");
        assert_eq!(names(folder.path()), Vec::<String>::new());
        if !rustix::process::geteuid().is_root() {
            return; // Only root can give a socket to any group.
        }
        let config = config(folder.path(), Some("17"));
        let socket = AdminSocket::open(&config).unwrap();
        assert_eq!(fs::metadata(&socket.draft.0).unwrap().gid(), 17);
    }
}
