// SPDX-License-Identifier: Apache-2.0
//! The new agent's side: it finds the running agent, and takes over when the
//! caller says so. The caller decides how the sockets are used.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

use super::channel::Channel;
use super::error::HandoverError;
use super::message::{ANSWER_LIMIT, Descriptors, Item, Message, Setup, VERSION, unexpected};
use super::socket::socket_path;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::statefile;

/// How long to try for the lock of an agent that was connected: when it ends, it
/// closes its socket shortly before it releases its lock. An agent that starts
/// warns after this time that it waits for another one; it waits [`START_LIMIT`].
const RETRY_LIMIT: Duration = Duration::from_secs(2);
/// How long an agent that starts may have its lock before its socket. Between the
/// two, the kernel verifies its programs, which takes many seconds on a busy or
/// slow machine.
const START_LIMIT: Duration = Duration::from_secs(20);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How an agent starts.
#[derive(Debug)]
pub enum Start {
    /// No other agent runs; here is the lock of the state folder.
    Alone(OwnedFd),
    /// Another agent runs, and will hand over.
    After(Predecessor),
}

/// The running agent.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    state_dir: PathBuf,
}

/// The result of [`Predecessor::take`].
#[derive(Debug)]
pub enum Taken {
    /// The predecessor's sockets; it waits for [`Inheritance::complete`].
    Sockets(Inheritance),
    /// The predecessor has ended meanwhile; here is the lock of the state folder.
    Lock(OwnedFd),
}

/// The predecessor's sockets, which both agents now have.
#[derive(Debug)]
pub struct Inheritance {
    /// Frontends and the admin endpoint.
    pub sockets: Descriptors,
    predecessor: Predecessor,
}

/// Locks `state_dir`, or connects to the agent that has the lock and can hand
/// over to an agent with this `setup`.
///
/// # Errors
/// Neither is possible.
pub async fn start(state_dir: &Path, setup: &Setup) -> Result<Start, HandoverError> {
    let begun = clock::now();
    let mut is_said = false;
    loop {
        if let Some(lock) = try_lock(state_dir)? {
            return Ok(Start::Alone(lock));
        }
        let error = match UnixStream::connect(socket_path(state_dir)).await {
            Ok(stream) => match greet(stream, state_dir, setup).await {
                // The other agent has just ended, or is about to.
                Err(HandoverError::Abandoned(source)) => source,
                outcome => return outcome.map(Start::After),
            },
            Err(source) => source,
        };
        let waited = clock::now() - begun;
        if waited >= START_LIMIT {
            return Err(HandoverError::Occupied { folder: state_dir.to_owned(), source: error });
        }
        if waited >= RETRY_LIMIT && !is_said {
            is_said = true;
            tracing::warn!(
                folder = %state_dir.display(),
                limit_seconds = START_LIMIT.as_secs(),
                "another llb-agent uses this --state-dir and does not answer; it may be starting, so this one waits for it"
            );
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn greet(stream: UnixStream, state_dir: &Path, setup: &Setup) -> Result<Predecessor, HandoverError> {
    let mut channel = Channel::new(stream);
    let hello = Message::Hello { version: VERSION, setup: setup.clone() };
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
    /// Asks for the sockets. From now on the predecessor changes nothing, until
    /// the [`Inheritance`] is dropped.
    ///
    /// # Errors
    /// The predecessor goes on as before.
    pub async fn take(mut self) -> Result<Taken, HandoverError> {
        let taken = async {
            self.channel.send(&Message::Take).await?;
            self.channel.receive_descriptors(ANSWER_LIMIT).await
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
    /// This agent serves all frontends: takes over, and returns the predecessor's
    /// locks. If the predecessor has died, returns the lock of the state folder.
    ///
    /// # Errors
    /// The predecessor goes on, so this agent must end without changing anything.
    pub async fn complete(self) -> Result<Descriptors, HandoverError> {
        let Predecessor { mut channel, state_dir } = self.predecessor;
        let locks = async {
            channel.send(&Message::Serving).await?;
            channel.receive_descriptors(ANSWER_LIMIT).await
        };
        match locks.await {
            Ok(locks) => Ok(locks),
            Err(error) => match wait_for_lock(&state_dir).await? {
                Some(lock) => {
                    tracing::warn!(error = %ErrorChain(&error), "the old agent has died; this one takes its place");
                    Ok(vec![(Item::StateLock, lock)])
                }
                None => Err(HandoverError::Abandoned(error)),
            },
        }
    }
}

/// The lock of `state_dir`; `None` if another process still has it after
/// [`RETRY_LIMIT`].
async fn wait_for_lock(state_dir: &Path) -> Result<Option<OwnedFd>, HandoverError> {
    let give_up = clock::now() + RETRY_LIMIT;
    loop {
        match try_lock(state_dir)? {
            None if clock::now() < give_up => tokio::time::sleep(RETRY_PAUSE).await,
            outcome => return Ok(outcome),
        }
    }
}

fn try_lock(state_dir: &Path) -> Result<Option<OwnedFd>, HandoverError> {
    let locked = statefile::try_lock(state_dir);
    let failed = |source: io::Error| HandoverError::Folder { folder: state_dir.to_owned(), source };
    Ok(locked.map_err(failed)?.map(|file: File| OwnedFd::from(file)))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// Answers one new agent, as an agent does whose programs took long to load.
    async fn start_slowly(state_dir: PathBuf) {
        tokio::time::sleep(RETRY_LIMIT + RETRY_PAUSE).await;
        let listener = UnixListener::bind(socket_path(&state_dir)).unwrap();
        let mut channel = Channel::new(listener.accept().await.unwrap().0);
        channel.receive(ANSWER_LIMIT).await.unwrap();
        channel.send(&Message::Welcome).await.unwrap();
    }

    #[tokio::test]
    async fn an_agent_that_still_starts_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let _lock = try_lock(folder.path()).unwrap();
        let other = tokio::spawn(start_slowly(folder.path().to_owned()));
        let setup = Setup { links: Vec::new(), bpf_dir: None, network_namespace: None };
        assert!(matches!(start(folder.path(), &setup).await, Ok(Start::After(_))));
        other.await.unwrap();
    }
}
