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
use super::message::{ANSWER_LIMIT, Descriptors, Message, SERVING_LIMIT, Setup, VERSION, unexpected};
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
    /// Listens in `state_dir` for new agents that can go on from an agent with this
    /// `setup`. The caller has the lock of `state_dir`.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn listen(state_dir: &Path, setup: Setup) -> Result<Self, HandoverError> {
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
        task.spawn(accept(listener, Arc::new(setup), found, count));
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
    setup: Arc<Setup>,
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
        let (setup, found, waiting) = (setup.clone(), found.clone(), Waiting::new(&count));
        conversations.spawn(async move {
            match converse(stream, &setup).await {
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
async fn converse(stream: UnixStream, setup: &Setup) -> io::Result<Channel> {
    let user = rustix::process::geteuid().as_raw();
    if stream.peer_cred()?.uid() != user {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the new agent runs as another user"));
    }
    let mut channel = Channel::new(stream);
    let hello = channel.receive(ANSWER_LIMIT).await?;
    if let Some(why) = objection(&hello, setup) {
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

/// Why the sender of `hello` cannot take over from an agent with this `setup`;
/// `None` if it can.
fn objection(hello: &Message, setup: &Setup) -> Option<String> {
    let theirs = match hello {
        Message::Hello { version, .. } if *version != VERSION => {
            return Some(format!(
                "it has version {VERSION} of the handover, and the new one has version {version}; stop the old one first"
            ));
        }
        Message::Hello { setup, .. } => setup,
        other => return Some(unexpected(other).to_string()),
    };
    if theirs.network_namespace != setup.network_namespace {
        return Some(
            "it runs in another network namespace; give the new one a --state-dir of its own".to_owned(),
        );
    }
    if let Some(missing) = setup.links.iter().find(|link| !theirs.links.contains(link)) {
        return Some(format!(
            "it serves --linkdevice {missing}, which the new one lacks; stop the old one first"
        ));
    }
    // Programs that the new agent does not find would go on forwarding by what they knew last.
    match (&setup.bpf_dir, &theirs.bpf_dir) {
        (Some(own), None) => Some(format!(
            "it forwards packets by programs in --bpf-dir {}, and the new one has no packet plane; \
             stop the old one first, with --at-stop remove or `llb-agent detach`",
            own.display()
        )),
        (Some(own), Some(other)) if own != other => Some(format!(
            "it forwards packets by programs in --bpf-dir {}, and the new one has --bpf-dir {}; give both the same",
            own.display(),
            other.display()
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(links: &[&str], bpf_dir: Option<&str>) -> Setup {
        let links = links.iter().map(|&link| link.to_owned()).collect();
        Setup { links, bpf_dir: bpf_dir.map(Into::into), network_namespace: Some(1) }
    }

    #[test]
    fn a_new_agent_must_find_what_the_old_one_leaves() {
        let relaying = setup(&["eth0"], None);
        let forwarding = setup(&["eth0"], Some("/sys/fs/bpf/llb"));
        let elsewhere = setup(&["eth0"], Some("/sys/fs/bpf/other"));
        let other_network = Setup { network_namespace: Some(2), ..forwarding.clone() };
        let more_links = setup(&["eth1", "eth0"], Some("/sys/fs/bpf/llb"));
        for (old, new, expected) in [
            (&relaying, &relaying, None),
            (&relaying, &forwarding, None),
            (&forwarding, &forwarding, None),
            (&forwarding, &more_links, None),
            (&more_links, &forwarding, Some("it serves --linkdevice eth1")),
            (&forwarding, &relaying, Some("the new one has no packet plane")),
            (&forwarding, &other_network, Some("another network namespace")),
            (&forwarding, &elsewhere, Some("the new one has --bpf-dir /sys/fs/bpf/other")),
        ] {
            let hello = Message::Hello { version: VERSION, setup: new.clone() };
            let why = objection(&hello, old);
            assert_eq!(why.is_some(), expected.is_some(), "{old:?} {new:?} {why:?}");
            assert!(why.unwrap_or_default().contains(expected.unwrap_or_default()), "{old:?} {new:?}");
        }
        let hello = Message::Hello { version: VERSION - 1, setup: forwarding.clone() };
        assert!(objection(&hello, &forwarding).unwrap().contains("version"));
    }
}
