// SPDX-License-Identifier: Apache-2.0
//! What the two agents say to each other, and how long each waits for it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Frontend, Port, Protocol};

/// Raised when an older or newer agent would not understand the conversation.
pub(super) const VERSION: u32 = 1;

/// From Take to Serving: a first round takes milliseconds, one of 10,000
/// frontends on a busy machine some seconds.
pub const SERVING_LIMIT: Duration = Duration::from_secs(30);

/// For each message that only needs the other process to run.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

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
pub(super) enum Message {
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

pub(super) fn unexpected(message: &Message) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an answer that makes no sense here: {message:?}"))
}
