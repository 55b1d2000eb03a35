// SPDX-License-Identifier: Apache-2.0
//! The new agent's side: it finds a running one, and takes its place when told
//! to. What it takes into use is the caller's business.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;

use super::channel::Channel;
use super::error::HandoverError;
use super::message::{ANSWER_LIMIT, Goods, Item, Message, VERSION, unexpected};
use super::socket::socket_path;
use crate::statefile;

/// An agent that ends closes its socket a little before its lock is free, and
/// one that starts has its lock a little before its socket.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// How an agent starts.
#[derive(Debug)]
pub enum Start {
    /// Nobody else is there: the lock of the state folder.
    Alone(OwnedFd),
    /// Another agent serves, and is willing to hand over.
    After(Predecessor),
}

/// The running agent.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    state_dir: PathBuf,
}

/// What came of [`Predecessor::take`].
#[derive(Debug)]
pub enum Taken {
    /// It waits for [`Inheritance::complete`].
    Sockets(Inheritance),
    /// It has ended meanwhile: the lock of the state folder.
    Lock(OwnedFd),
}

/// What the predecessor offers; its sockets are in use on both sides.
#[derive(Debug)]
pub struct Inheritance {
    /// Frontends and the admin endpoint.
    pub sockets: Goods,
    predecessor: Predecessor,
}

/// Holds `state_dir`, or finds the agent that does and that can hand over `links`.
///
/// # Errors
/// Neither; the text has the way out.
pub async fn start(state_dir: &Path, links: &[String]) -> Result<Start, HandoverError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = try_lock(state_dir)? {
            return Ok(Start::Alone(lock));
        }
        let error = match UnixStream::connect(socket_path(state_dir)).await {
            Ok(stream) => match greet(stream, state_dir, links).await {
                // It has ended in this very moment, or ends.
                Err(HandoverError::Abandoned(source)) => source,
                outcome => return outcome.map(Start::After),
            },
            Err(source) => source,
        };
        if Instant::now() >= give_up {
            return Err(HandoverError::Occupied { folder: state_dir.to_owned(), source: error });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn greet(stream: UnixStream, state_dir: &Path, links: &[String]) -> Result<Predecessor, HandoverError> {
    let mut channel = Channel::new(stream);
    let hello = Message::Hello { version: VERSION, links: links.to_vec() };
    let answer = async {
        channel.send(&hello).await?;
        channel.receive(ANSWER_LIMIT).await
    };
    match answer.await.map_err(HandoverError::Abandoned)? {
        Message::Welcome => Ok(Predecessor { channel, state_dir: state_dir.to_owned() }),
        Message::Refused { why } => Err(HandoverError::Refused { why }),
        other => Err(HandoverError::Abandoned(unexpected(&other))),
    }
}

impl Predecessor {
    /// Asks for the sockets. From here on the predecessor changes nothing,
    /// until this value or the [`Inheritance`] is dropped.
    ///
    /// # Errors
    /// The predecessor goes on.
    pub async fn take(mut self) -> Result<Taken, HandoverError> {
        let taken = async {
            self.channel.send(&Message::Take).await?;
            self.channel.receive_goods(ANSWER_LIMIT).await
        };
        match taken.await {
            Ok(sockets) => Ok(Taken::Sockets(Inheritance { sockets, predecessor: self })),
            Err(error) => match wait_for_lock(&self.state_dir).await? {
                Some(lock) => Ok(Taken::Lock(lock)),
                None => Err(HandoverError::Abandoned(error)),
            },
        }
    }
}

impl Inheritance {
    /// All is served here: takes the predecessor's place, and its locks. If the
    /// predecessor died meanwhile, the lock of the state folder is free, and taken.
    ///
    /// # Errors
    /// The predecessor goes on, so this agent must end and change nothing.
    pub async fn complete(self) -> Result<Goods, HandoverError> {
        let Predecessor { mut channel, state_dir } = self.predecessor;
        let locks = async {
            channel.send(&Message::Serving).await?;
            channel.receive_goods(ANSWER_LIMIT).await
        };
        match locks.await {
            Ok(locks) => Ok(locks),
            Err(error) => match wait_for_lock(&state_dir).await? {
                Some(lock) => {
                    tracing::warn!(%error, "the predecessor has died; going on in its place");
                    Ok(vec![(Item::StateLock, lock)])
                }
                None => Err(HandoverError::Abandoned(error)),
            },
        }
    }
}

/// `None` if another process still has it after [`PATIENCE`].
async fn wait_for_lock(state_dir: &Path) -> Result<Option<OwnedFd>, HandoverError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match try_lock(state_dir)? {
            None if Instant::now() < give_up => tokio::time::sleep(PAUSE).await,
            outcome => return Ok(outcome),
        }
    }
}

fn try_lock(state_dir: &Path) -> Result<Option<OwnedFd>, HandoverError> {
    let locked = statefile::try_lock(state_dir);
    let failed = |source: io::Error| HandoverError::Folder { folder: state_dir.to_owned(), source };
    Ok(locked.map_err(failed)?.map(|file: File| OwnedFd::from(file)))
}
