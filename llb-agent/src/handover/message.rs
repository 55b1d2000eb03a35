// SPDX-License-Identifier: Apache-2.0
//! The messages between the two agents, and how long each waits for the next one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Port, Protocol};

/// The version of the messages. It must be raised when they change so that an
/// agent with the other version would not understand them.
pub(super) const VERSION: u32 = 2;

/// The time from Take to Serving. The first round takes milliseconds; with 10,000
/// frontends on a busy machine it takes some seconds.
pub const SERVING_LIMIT: Duration = Duration::from_secs(30);

/// The time for a message that the other agent sends at once.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a descriptor is that one agent passes to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A socket of a frontend: a listener, or a bound socket for UDP. A frontend
    /// can have several.
    Frontend {
        /// The VIP of the [`Frontend`](crate::model::Frontend).
        vip: IpAddr,
        /// The port of the [`Frontend`](crate::model::Frontend).
        port: Port,
        /// The protocol of the [`Frontend`](crate::model::Frontend).
        protocol: Protocol,
        /// The packet plane serves the frontend, and the relay only clients that no program sees.
        #[serde(default)]
        is_beside_packets: bool,
    },
    /// The listener of the admin endpoint.
    Admin {
        /// Its address.
        address: SocketAddr,
    },
    /// The lock of the state folder.
    StateLock,
    /// The lock by which one agent has a link (`addresses::AgentLocks`).
    AgentLock {
        /// The number of the link.
        ifindex: u32,
    },
    /// The lock of the folder where the eBPF objects of a link are pinned.
    LinkLock {
        /// The link's name.
        link: String,
    },
}

/// What the flags of an agent say about its links. A successor must have the same
/// links, and find there what its predecessor leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The names of the links.
    pub links: Vec<String>,
    /// The folder where its eBPF programs are pinned; `None` without a packet plane.
    pub bpf_dir: Option<PathBuf>,
    /// The number of its network namespace; `None` if it cannot be read.
    pub network_namespace: Option<u64>,
}

/// Open descriptors, and what each one is.
pub type Descriptors = Vec<(Item, OwnedFd)>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// From the successor: it has started with these flags.
    Hello {
        version: u32,
        #[serde(flatten)]
        setup: Setup,
    },
    /// From the predecessor: it waits for Take.
    Welcome,
    /// From the predecessor: it does not hand over to this agent.
    Refused { why: String },
    /// From the successor: it has a whole snapshot, and can serve.
    Take,
    /// From the predecessor: the descriptors that come with this message are
    /// these items. If `more`, another such message follows.
    #[serde(rename = "goods")]
    Descriptors { items: Vec<Item>, more: bool },
    /// From the successor: it serves all frontends.
    Serving,
}

/// The error for a message that does not belong here.
pub(super) fn unexpected(message: &Message) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected message: {message:?}"))
}
