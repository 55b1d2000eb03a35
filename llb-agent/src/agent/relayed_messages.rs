// SPDX-License-Identifier: Apache-2.0
//! The supervisor's socket for what its agent tells systemd. systemd believes only the main process
//! of a service (NotifyAccess=main), so the supervisor passes the messages on, as they are. They end
//! with the supervisor: an agent that is left behind tells nothing about the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

use super::service_manager::pass_on;
use crate::config::{has_service_manager, runtime_directory};
use crate::error_chain::ErrorChain;

/// The longest message. Those of the agent have some lines.
const LONGEST: usize = 4096;

/// The socket of one supervisor. Removed when dropped.
#[derive(Debug)]
pub(super) struct Messages {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Messages {
    /// A socket in the runtime folder of the service; `None` without systemd or such a folder. The
    /// agent then has the socket that the supervisor was given.
    ///
    /// # Errors
    /// It can't be made.
    pub(super) fn listen() -> io::Result<Option<Self>> {
        match runtime_directory() {
            Some(folder) if has_service_manager() => Self::listen_in(&folder).map(Some),
            _ => Ok(None),
        }
    }

    fn listen_in(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!("notify-{}.sock", std::process::id()));
        // Of a process with the same number that was killed.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self { socket: UnixDatagram::bind(&path)?, path }),
        }
    }

    /// For `$NOTIFY_SOCKET` of the agent.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Passes messages on. Never ends; cancel safe.
    pub(super) async fn pass_on_all(&self) {
        loop {
            match self.next().await {
                Ok(message) => pass_on(&message),
                Err(error) => {
                    tracing::warn!(error = %ErrorChain(&error), "systemd gets no more messages of the agent");
                    std::future::pending().await
                }
            }
        }
    }

    async fn next(&self) -> io::Result<String> {
        let mut bytes = [0; LONGEST];
        let length = self.socket.recv(&mut bytes).await?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        // It is of no use to anybody, and systemd removes the folder.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_as_they_were_sent() {
        let folder = tempfile::tempdir().unwrap();
        let messages = Messages::listen_in(folder.path()).unwrap();
        let agent = UnixDatagram::unbound().unwrap();
        for text in ["WATCHDOG=1\nSTATUS=serving 1 frontend\n", "READY=1\n"] {
            agent.send_to(text.as_bytes(), messages.path()).await.unwrap();
            assert_eq!(messages.next().await.unwrap(), text);
        }
        let path = messages.path().to_owned();
        drop(messages);
        assert!(!path.exists());
    }
}
