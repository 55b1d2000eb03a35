// SPDX-License-Identifier: Apache-2.0
//! The running agent's side: it listens for new agents. The caller decides what
//! is handed over.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::channel::Channel;
use super::error::HandoverError;
use super::message::{ANSWER_LIMIT, Descriptors, Message, SERVING_LIMIT, VERSION, unexpected};
use super::socket::socket_path;
use crate::error_chain::ErrorChain;

/// How many new agents can wait for their first snapshot at the same time. There
/// is usually one; others that were started by mistake must not block it.
const MOST_WAITING: usize = 4;

/// Listens for new agents until it is dropped.
#[derive(Debug)]
pub struct Successors {
    takeovers: mpsc::Receiver<Takeover>,
    waiting: watch::Receiver<usize>,
    _task: JoinSet<()>,
}

/// A new agent that can serve, and has sent Take.
#[derive(Debug)]
pub struct Takeover {
    channel: Channel,
    _waiting: Waiting,
}

/// Counts a new agent as waiting until it is dropped.
#[derive(Debug)]
struct Waiting(watch::Sender<usize>);

impl Waiting {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|waiting| *waiting += 1);
        Self(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Successors {
    /// Listens in `state_dir` for new agents that serve all of `links`. The caller
    /// has the lock of `state_dir`.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn listen(state_dir: &Path, links: &[String]) -> Result<Self, HandoverError> {
        let path = socket_path(state_dir);
        let listen = || {
            // The socket of an earlier agent, which has handed over or is dead.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => UnixListener::bind(&path),
            }
        };
        let listener = listen().map_err(|source| HandoverError::Listen { path: path.clone(), source })?;
        let (found, takeovers) = mpsc::channel(1);
        let (count, waiting) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(accept(listener, Arc::from(links), found, count));
        Ok(Self { takeovers, waiting, _task: task })
    }

    /// Listens to nothing, so that no new agent ever comes.
    pub fn nobody() -> Self {
        Self { takeovers: mpsc::channel(1).1, waiting: watch::channel(0).1, _task: JoinSet::new() }
    }

    /// Waits for a new agent that is ready to take over. Cancel safe.
    pub async fn next(&mut self) -> Takeover {
        match self.takeovers.recv().await {
            Some(takeover) => takeover,
            None => std::future::pending().await,
        }
    }

    /// Whether a new agent has connected.
    pub fn is_any_waiting(&self) -> bool {
        *self.waiting.borrow() > 0
    }

    /// Waits until no new agent is connected.
    pub fn none_waiting(&self) -> impl Future<Output = ()> + use<> {
        let mut waiting = self.waiting.clone();
        // Fails only if the task has ended, and then no new agent can be connected.
        async move { drop(waiting.wait_for(|&waiting| waiting == 0).await) }
    }
}

impl Takeover {
    /// Sends `sockets`, and waits until the new agent serves all of them.
    ///
    /// # Errors
    /// The new agent ended, or was not ready in time. This agent goes on as before.
    pub async fn offer(&mut self, sockets: &Descriptors) -> Result<(), HandoverError> {
        let offer = async {
            self.channel.send_descriptors(sockets).await?;
            match self.channel.receive(SERVING_LIMIT).await? {
                Message::Serving => Ok(()),
                other => Err(unexpected(&other)),
            }
        };
        offer.await.map_err(HandoverError::Lost)
    }

    /// Sends the locks, which ends this agent's term: from now on only the new
    /// agent changes addresses and statuses.
    ///
    /// # Errors
    /// The new agent ended. This agent goes on as before.
    pub async fn give_up(mut self, locks: &Descriptors) -> Result<(), HandoverError> {
        self.channel.send_descriptors(locks).await.map_err(HandoverError::Lost)
    }
}

async fn accept(
    listener: UnixListener,
    links: Arc<[String]>,
    found: mpsc::Sender<Takeover>,
    count: watch::Sender<usize>,
) {
    let mut conversations = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept(), if conversations.len() < MOST_WAITING => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(
                        error = %ErrorChain(&error),
                        "cannot accept new agents any more, so none can take over without a gap"
                    );
                    return;
                }
            },
            Some(_) = conversations.join_next() => continue,
        };
        let (links, found, waiting) = (links.clone(), found.clone(), Waiting::new(&count));
        conversations.spawn(async move {
            match converse(stream, &links).await {
                // The receiver is gone only if this agent ends.
                Ok(channel) => drop(found.send(Takeover { channel, _waiting: waiting }).await),
                Err(error) => tracing::info!(
                    error = %ErrorChain(&error),
                    "a new agent connected, but did not ask to take over"
                ),
            }
        });
    }
}

/// Talks to a new agent until it sends Take.
async fn converse(stream: UnixStream, links: &[String]) -> io::Result<Channel> {
    let user = rustix::process::geteuid().as_raw();
    if stream.peer_cred()?.uid() != user {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the new agent runs as another user"));
    }
    let mut channel = Channel::new(stream);
    let hello = channel.receive(ANSWER_LIMIT).await?;
    if let Some(why) = objection(&hello, links) {
        channel.send(&Message::Refused { why: why.clone() }).await?;
        return Err(io::Error::other(why));
    }
    channel.send(&Message::Welcome).await?;
    tracing::info!("a new agent has started; it takes over as soon as it has a whole snapshot");
    // The new agent waits for an API server, which can take any time. This agent serves meanwhile.
    match channel.receive_without_limit().await? {
        Message::Take => Ok(channel),
        other => Err(unexpected(&other)),
    }
}

/// Why the sender of `hello` cannot take over; `None` if it can.
fn objection(hello: &Message, links: &[String]) -> Option<String> {
    match hello {
        Message::Hello { version, .. } if *version != VERSION => Some(format!(
            "it has version {VERSION} of the handover, and the new one has version {version}; stop the old one first"
        )),
        Message::Hello { links: theirs, .. } => {
            let missing = links.iter().find(|link| !theirs.contains(link))?;
            Some(format!("it serves --linkdevice {missing}, which the new one lacks; stop the old one first"))
        }
        other => Some(unexpected(other).to_string()),
    }
}
