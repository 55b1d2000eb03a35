// SPDX-License-Identifier: Apache-2.0
//! Restarts without a gap: a new agent takes the place of the running one. Here
//! is the conversation of the two; what is handed over is put together, and
//! taken into use, in `agent`.
//!
//! ```text
//!   running agent (predecessor)                 new agent (successor)
//!     serves; <state-dir>/handover.sock  <----  Hello: version, links          connects because the state folder is locked
//!     is it one of mine?                 ---->  Welcome, or Refused
//!     serves                                    waits for its first whole snapshot
//!     changes nothing any more           <----  Take
//!     goes on accepting                  ---->  Sockets: listeners, UDP, admin endpoint
//!                                               accepts as well; first whole round
//!     gives up its locks, then drains    <----  Serving
//!                                        ---->  Locks
//!     ends                                      is the agent
//! ```
//!
//! The sockets are the same ones in both processes (`SCM_RIGHTS`, unix(7)), so
//! their queues of connections stay: no connection is reset, and no moment
//! passes in which nobody listens. Listeners of its own beside the old ones
//! (`SO_REUSEPORT`) would lose what comes in at those between the last accept
//! and their close, unless `net.ipv4.tcp_migrate_req` is set.
//!
//! Invariants: until the locks are sent, the predecessor can go on as before;
//! it does so when the successor is gone or says nothing for [`SERVING_LIMIT`].
//! A successor that loses its predecessor goes on only if it gets the lock of
//! the state folder: then the predecessor is dead. So there is always exactly
//! one that changes addresses and statuses.

mod channel;
mod predecessor;
mod successor;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Frontend, Port, Protocol};
pub use predecessor::{Successors, Takeover};
pub use successor::{Inheritance, Predecessor, Start, Taken, start};

/// Raised when an older or newer agent would not understand the conversation.
const VERSION: u32 = 1;

/// In the state folder.
const SOCKET: &str = "handover.sock";

/// From Take to Serving: a first round takes milliseconds, one of 10,000
/// frontends on a busy machine some seconds.
pub const SERVING_LIMIT: Duration = Duration::from_secs(30);

/// For each message that only needs the other process to run.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a descriptor is that goes from one agent to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A socket of a frontend: a listener, or for UDP the bound socket. A
    /// frontend may have several.
    Frontend {
        /// The parts of the [`Frontend`].
        vip: IpAddr,
        /// As above.
        port: Port,
        /// As above.
        protocol: Protocol,
    },
    /// The listener of the admin endpoint.
    Admin {
        /// Where.
        address: SocketAddr,
    },
    /// The lock of the state folder.
    StateLock,
    /// The lock of a link's folder of pins.
    LinkLock {
        /// The link's name.
        link: String,
    },
}

/// Descriptors, and what each is.
pub type Goods = Vec<(Item, OwnedFd)>;

impl From<Frontend> for Item {
    fn from(Frontend { vip, port, protocol }: Frontend) -> Self {
        Self::Frontend { vip, port, protocol }
    }
}

/// What one says to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// Successor: I am here, and serve these links.
    Hello { version: u32, links: Vec<String> },
    /// Predecessor: say Take when you can serve.
    Welcome,
    /// Predecessor: not you.
    Refused { why: String },
    /// Successor: I have a whole snapshot.
    Take,
    /// Predecessor: some descriptors, which come with this message; `more` follow.
    Goods { items: Vec<Item>, more: bool },
    /// Successor: all is served.
    Serving,
}

/// No agent took the other's place; both are as before, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Locked, and nobody answers.
    #[error(
        "another llb-agent uses {folder} and does not hand over; end that one, or give this one a folder of its own"
    )]
    Occupied {
        /// The state folder.
        folder: PathBuf,
        /// Why there is no conversation.
        #[source]
        source: io::Error,
    },
    /// The running agent won't.
    #[error("the llb-agent that runs does not hand over: {why}")]
    Refused {
        /// Its words.
        why: String,
    },
    /// The running agent is there, and has stopped the conversation.
    #[error("the llb-agent that runs does not hand over, so it goes on itself, or ends; try again")]
    Abandoned(#[source] io::Error),
    /// The successor is gone, or does not get on.
    #[error("the new llb-agent did not take over")]
    Lost(#[source] io::Error),
    /// The state folder itself.
    #[error("cannot hold --state-dir {folder}")]
    Folder {
        /// The state folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket in it.
    #[error("cannot listen on {path}, so a new agent can't take over without a gap")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}

fn unexpected(message: &Message) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an answer that makes no sense here: {message:?}"))
}
