// SPDX-License-Identifier: Apache-2.0
//! The running agent's side: it listens for a successor. What it then gives up
//! is the caller's business.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::channel::Channel;
use super::error::HandoverError;
use super::message::{ANSWER_LIMIT, Goods, Message, SERVING_LIMIT, VERSION, unexpected};
use super::socket::socket_path;

/// New agents that wait for their first snapshot at one time. One is usual, a
/// second one is a slip that must not keep the first from getting on.
const MOST_WAITING: usize = 4;

/// Listens for new agents; ends with this value.
#[derive(Debug)]
pub struct Successors {
    takeovers: mpsc::Receiver<Takeover>,
    waiting: watch::Receiver<usize>,
    _task: JoinSet<()>,
}

/// A new agent that can serve, and has said Take.
#[derive(Debug)]
pub struct Takeover {
    channel: Channel,
    _waiting: Waiting,
}

/// Counts as one that waits, until dropped.
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
    /// Listens in `state_dir`, whose lock the caller holds, for agents that
    /// serve all of `links`.
    ///
    /// # Errors
    /// The socket can't be made.
    pub fn listen(state_dir: &Path, links: &[String]) -> Result<Self, HandoverError> {
        let path = socket_path(state_dir);
        let listen = || {
            // That of a predecessor, who has handed over, or is dead.
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

    /// Nobody ever comes.
    pub fn nobody() -> Self {
        Self { takeovers: mpsc::channel(1).1, waiting: watch::channel(0).1, _task: JoinSet::new() }
    }

    /// The next one that is ready to take over. Cancel safe.
    pub async fn next(&mut self) -> Takeover {
        match self.takeovers.recv().await {
            Some(takeover) => takeover,
            None => std::future::pending().await,
        }
    }

    /// Whether a new agent is there, and not ready yet.
    pub fn is_any_waiting(&self) -> bool {
        *self.waiting.borrow() > 0
    }

    /// Returns when no new agent is there (any more).
    pub fn none_waiting(&self) -> impl Future<Output = ()> + use<> {
        let mut waiting = self.waiting.clone();
        // Fails only without the task, and then nobody can be there.
        async move { drop(waiting.wait_for(|&waiting| waiting == 0).await) }
    }
}

impl Takeover {
    /// Gives `sockets`, and waits until all of them are served over there.
    ///
    /// # Errors
    /// The new agent is gone, or not ready in time: go on as before.
    pub async fn offer(&mut self, sockets: &Goods) -> Result<(), HandoverError> {
        let offer = async {
            self.channel.send_goods(sockets).await?;
            match self.channel.receive(SERVING_LIMIT).await? {
                Message::Serving => Ok(()),
                other => Err(unexpected(&other)),
            }
        };
        offer.await.map_err(HandoverError::Lost)
    }

    /// Gives up the place: from here on the new agent is the agent.
    ///
    /// # Errors
    /// The new agent is gone: go on as before.
    pub async fn give_up(mut self, locks: &Goods) -> Result<(), HandoverError> {
        self.channel.send_goods(locks).await.map_err(HandoverError::Lost)
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
                    tracing::warn!(%error, "no new agent can take over without a gap any more");
                    return;
                }
            },
            Some(_) = conversations.join_next() => continue,
        };
        let (links, found, waiting) = (links.clone(), found.clone(), Waiting::new(&count));
        conversations.spawn(async move {
            match converse(stream, &links).await {
                // The receiver is gone only if the agent ends.
                Ok(channel) => drop(found.send(Takeover { channel, _waiting: waiting }).await),
                Err(error) => tracing::info!(%error, "a new agent did not get to the point of taking over"),
            }
        });
    }
}

/// Until the new agent says Take.
async fn converse(stream: UnixStream, links: &[String]) -> io::Result<Channel> {
    let user = rustix::process::geteuid().as_raw();
    if stream.peer_cred()?.uid() != user {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is of another user"));
    }
    let mut channel = Channel::new(stream);
    let hello = channel.receive(ANSWER_LIMIT).await?;
    if let Some(why) = objection(&hello, links) {
        channel.send(&Message::Refused { why: why.clone() }).await?;
        return Err(io::Error::other(why));
    }
    channel.send(&Message::Welcome).await?;
    tracing::info!("a new agent is there; it takes over as soon as it has a whole snapshot");
    // It waits for an API server, which may take any time, and this agent serves meanwhile.
    match channel.receive_sometime().await? {
        Message::Take => Ok(channel),
        other => Err(unexpected(&other)),
    }
}

/// Why it can't be the successor.
fn objection(hello: &Message, links: &[String]) -> Option<String> {
    match hello {
        Message::Hello { version, .. } if *version != VERSION => Some(format!(
            "it speaks version {VERSION} of the hand-over and the new one version {version}; end the old one first"
        )),
        Message::Hello { links: theirs, .. } => {
            let missing = links.iter().find(|link| !theirs.contains(link))?;
            Some(format!("it serves --linkdevice {missing} and the new one would not; end the old one first"))
        }
        other => Some(unexpected(other).to_string()),
    }
}
