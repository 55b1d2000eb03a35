// SPDX-License-Identifier: Apache-2.0
//! The lock of one link as a socket: its name, and how its holder is asked who
//! it is. The kernel knows the holder's pid and user; the holder itself tells
//! its state folder.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};

/// An agent answers at once. A process that does not is no agent, or is stopped.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The longest answer that is read: the longest path of Linux.
const LONGEST_ANSWER: u64 = 4096;

/// The pause after a failed accept, mostly for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The name of the lock of the link with this number.
pub(super) fn lock_name(index: u32) -> String {
    format!("llb-agent/{index}")
}

/// The process that has the lock of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// `None` if it is in another PID namespace.
    pub(super) pid: Option<i32>,
    pub(super) user: Option<u32>,
    /// Its --state-dir; `None` if it did not answer.
    pub(super) state_dir: Option<PathBuf>,
}

impl Holder {
    /// `None` if it is in another PID namespace.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// It is an llb-agent with this --state-dir.
    pub(crate) fn has_state_dir(&self, folder: &Path) -> bool {
        self.state_dir.as_deref() == Some(folder)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state_dir {
            Some(_) => write!(f, "another llb-agent (")?,
            None => write!(f, "a process that does not answer (")?,
        }
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => write!(f, "in another PID namespace")?,
        }
        if let Some(user) = self.user.filter(|user| *user != rustix::process::geteuid().as_raw()) {
            write!(f, ", user {user}")?;
        }
        if let Some(folder) = &self.state_dir {
            // Quoted, because another process chose the text.
            write!(f, ", --state-dir {folder:?}")?;
        }
        write!(f, ")")
    }
}

/// Asks the holder of the link's lock who it is. What cannot be found out is
/// missing in the answer.
pub(super) async fn ask(index: u32) -> Holder {
    let mut holder = Holder::default();
    let asking = async {
        let mut stream = UnixStream::connect(format!("\0{}", lock_name(index))).await?;
        let peer = stream.peer_cred()?;
        // The kernel gives 0 for a process of another PID namespace.
        holder.pid = peer.pid().filter(|pid| *pid > 0);
        holder.user = Some(peer.uid());
        let mut text = String::new();
        (&mut stream).take(LONGEST_ANSWER).read_to_string(&mut text).await?;
        holder.state_dir = Some(text).filter(|text| !text.is_empty()).map(PathBuf::from);
        io::Result::Ok(())
    };
    // Either way, the rest is unknown.
    let _ = tokio::time::timeout(ANSWER_LIMIT, asking).await;
    holder
}

/// The process that has the lock of the link; `None` if nobody has it. Takes no lock.
pub(crate) async fn holder(index: u32) -> Option<Holder> {
    let holder = ask(index).await;
    // The kernel tells the user of the process that listens.
    holder.user.is_some().then_some(holder)
}

/// What this process answers: its state folder.
pub(super) fn answer_of(state_dir: &Path) -> Arc<[u8]> {
    state_dir.to_string_lossy().as_bytes().into()
}

/// Answers everybody who asks, until it is aborted. It never waits for one of them.
pub(super) async fn answer(listener: UnixListener, answer: Arc<[u8]>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A new socket has room for the answer. A caller who has gone needs none.
                let _ = stream.into_std().and_then(|mut stream| stream.write(&answer));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot answer who holds the link");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
