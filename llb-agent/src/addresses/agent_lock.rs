// SPDX-License-Identifier: Apache-2.0
//! One agent per link: the locks by which an agent keeps all other agents off
//! its links, whatever their folders and flags are.
//!
//! The lock of a link is a listening Unix socket with an abstract name
//! (unix(7)). Such a name fits a link: it belongs to one network namespace, it
//! needs no folder that both agents see, the kernel frees it when the last
//! process that has the socket ends, and a successor can be given it. Who
//! connects to it learns who holds the link.
//!
//! The name contains the number of the link and not its name. A link can be
//! named in several ways (`ip link property add ... altname`) and be renamed
//! while an agent serves on it, but all agents see the same number. A link that
//! is removed and made again has another number. It is another link, and its lock
//! is taken before anything is changed on it. Until it exists there is nothing to
//! lock.
//!
//! Abstract names have no permissions: any local process can take one first.
//! Then no agent starts on that link, and the error names that process.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::lock_error::AgentLockError;
use super::lock_holder::{Holder, answer, answer_of, ask, lock_name};
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::netlink::{Connection, LinkDevice};

/// How long to wait for the lock of an agent with the same state folder, which
/// is about to end: a process that ends closes its descriptors one by one.
const RETRY_LIMIT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Callers that may wait for an answer at the same time.
const BACKLOG: i32 = 16;

/// The locks of this agent's links, until they are released or the last clone
/// is dropped. A clone is the same locks.
#[derive(Clone, Debug)]
pub struct AgentLocks {
    state_dir: PathBuf,
    answer: Arc<[u8]>,
    /// By the number of the link.
    held: Arc<Mutex<BTreeMap<u32, Lock>>>,
}

/// What to do about the lock of an agent with the same state folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnPredecessor {
    LeaveIt,
    WaitForIt,
}

#[derive(Debug)]
struct Lock {
    socket: OwnedFd,
    /// Aborted with the lock.
    _answers: JoinSet<()>,
}

impl AgentLocks {
    /// Takes the locks of all of `links` that exist. `state_dir` is told to agents
    /// that ask.
    ///
    /// # Errors
    /// Another process has one of the locks. Then none is held.
    pub async fn take(links: &[String], state_dir: &Path) -> Result<Self, AgentLockError> {
        let locks = Self::none(state_dir);
        locks.complete(links, Vec::new()).await?;
        Ok(locks)
    }

    /// As [`AgentLocks::take`], but leaves out the links that an agent with the same
    /// state folder has: it will pass on their locks.
    ///
    /// # Errors
    /// Another process has one of the locks. Then none is held.
    pub async fn take_beside_predecessor(links: &[String], state_dir: &Path) -> Result<Self, AgentLockError> {
        let locks = Self::none(state_dir);
        for (index, link) in numbers(links).await? {
            locks.take_patiently(index, &link, OnPredecessor::LeaveIt).await?;
        }
        Ok(locks)
    }

    /// Takes the locks that are missing. `inherited` are those that a predecessor has
    /// passed on, by the number of the link.
    ///
    /// # Errors
    /// Another process has one of the locks.
    pub async fn complete(
        &self,
        links: &[String],
        inherited: Vec<(u32, OwnedFd)>,
    ) -> Result<(), AgentLockError> {
        let numbers = numbers(links).await?;
        for (index, socket) in inherited {
            if let Some(link) = numbers.get(&index) {
                let unusable = |source| AgentLockError::Unusable { link: link.clone(), source };
                self.adopt(index, socket).map_err(unusable)?;
            }
        }
        for (index, link) in &numbers {
            self.take_patiently(*index, link, OnPredecessor::WaitForIt).await?;
        }
        Ok(())
    }

    fn none(state_dir: &Path) -> Self {
        let state_dir = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
        let answer = answer_of(&state_dir);
        Self { state_dir, answer, held: Arc::default() }
    }

    /// Whether the link is this agent's.
    pub fn has(&self, index: u32) -> bool {
        self.held().contains_key(&index)
    }

    /// Leaves only those links in `present` that are this agent's, after it has
    /// taken the locks that are free. Forgets the locks of all other links.
    /// `refusals` has the links that are refused, by number, and is brought up to
    /// date; the holder is asked only once.
    pub(super) async fn own_of(
        &self,
        present: &mut Vec<LinkDevice>,
        refusals: &mut BTreeMap<u32, AgentLockError>,
    ) {
        let is_present = |index: &u32| present.iter().any(|link| link.ifindex == *index);
        self.held().retain(|index, _| is_present(index));
        refusals.retain(|index, _| is_present(index));
        for link in present.iter() {
            match self.try_take(link.ifindex) {
                Ok(true) => {
                    if refusals.remove(&link.ifindex).is_some() {
                        tracing::info!(
                            link = link.name,
                            "no other agent has the link any more; this one serves on it"
                        );
                    }
                }
                Ok(false) if refusals.contains_key(&link.ifindex) => {}
                Ok(false) => {
                    let error = self.taken(link.ifindex, &link.name).await;
                    tracing::warn!("{error}; until then nothing is changed on the link");
                    refusals.insert(link.ifindex, error);
                }
                Err(source) => {
                    let error = AgentLockError::Unusable { link: link.name.clone(), source };
                    tracing::warn!(error = %ErrorChain(&error), "nothing is changed on the link");
                    refusals.insert(link.ifindex, error);
                }
            }
        }
        present.retain(|link| self.has(link.ifindex));
    }

    /// The locks for a successor, by the number of the link.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn descriptors(&self) -> io::Result<Vec<(u32, OwnedFd)>> {
        self.held().iter().map(|(index, lock)| Ok((*index, lock.socket.try_clone()?))).collect()
    }

    /// Another agent is in charge: it alone has the locks from now on.
    pub fn release(&self) {
        self.held().clear();
    }

    async fn take_patiently(
        &self,
        index: u32,
        link: &str,
        on_predecessor: OnPredecessor,
    ) -> Result<(), AgentLockError> {
        let give_up = clock::now() + RETRY_LIMIT;
        loop {
            let error = match self.take_one(index, link).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let AgentLockError::Taken { holder, .. } = &error else { return Err(error) };
            let is_predecessor = holder.state_dir.as_ref() == Some(&self.state_dir);
            if is_predecessor && on_predecessor == OnPredecessor::LeaveIt {
                return Ok(());
            }
            if !self.may_be_ending(holder) || clock::now() >= give_up {
                return Err(error);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// An agent with another state folder that answers is not about to end.
    fn may_be_ending(&self, holder: &Holder) -> bool {
        holder.state_dir.as_ref().is_none_or(|folder| *folder == self.state_dir)
    }

    async fn take_one(&self, index: u32, link: &str) -> Result<(), AgentLockError> {
        match self.try_take(index) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.taken(index, link).await),
            Err(source) => Err(AgentLockError::Unusable { link: link.to_owned(), source }),
        }
    }

    async fn taken(&self, index: u32, link: &str) -> AgentLockError {
        let (holder, own_state_dir) = (ask(index).await, self.state_dir.clone());
        AgentLockError::Taken { link: link.to_owned(), holder, own_state_dir }
    }

    /// False if another process has the lock.
    fn try_take(&self, index: u32) -> io::Result<bool> {
        if self.has(index) {
            return Ok(true);
        }
        let name = SocketAddr::from_abstract_name(lock_name(index))?;
        match UnixListener::bind_addr(&name).and_then(|listener| self.adopt(index, listener.into())) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Holds the lock by `socket`, and answers those who ask.
    fn adopt(&self, index: u32, socket: OwnedFd) -> io::Result<()> {
        // Also for a socket that listens already: it makes the kernel name this
        // process, and not the one that listened first, to those who connect.
        rustix::net::listen(&socket, BACKLOG)?;
        let listener = UnixListener::from(socket.try_clone()?);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let mut answers = JoinSet::new();
        answers.spawn(answer(listener, Arc::clone(&self.answer)));
        self.held().insert(index, Lock { socket, _answers: answers });
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u32, Lock>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The existing ones of `links`, by number. In this order locks are taken: of two
/// agents that start at the same time with the same links, one gets all.
async fn numbers(links: &[String]) -> Result<BTreeMap<u32, String>, AgentLockError> {
    let mut numbers = BTreeMap::new();
    for name in links {
        let unusable = |source| AgentLockError::Unusable { link: name.clone(), source };
        let found = Connection::open().map_err(unusable)?.link(name).await.map_err(unusable)?;
        numbers.extend(found.map(|link| (link.ifindex, name.clone())));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that no link has, and no other run of this test.
    fn index(number: u32) -> u32 {
        0x8000_0000 | (std::process::id() << 4) | number
    }

    fn locks(folder: &str) -> AgentLocks {
        AgentLocks::none(Path::new(folder))
    }

    async fn refusal(locks: &AgentLocks, index: u32) -> String {
        locks.take_one(index, "eth0").await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn the_second_agent_is_told_who_has_the_link_and_what_to_do() {
        let (first, second) = (locks("/var/lib/first"), locks("/var/lib/second"));
        first.take_one(index(0), "eth0").await.unwrap();
        first.take_one(index(0), "eth0").await.unwrap();
        let expected = format!(
            "another llb-agent (pid {}, --state-dir \"/var/lib/first\") has link eth0, and two agents on one \
             link undo each other's work; stop it, or start this one with its --state-dir to take over from \
             it without a gap",
            std::process::id()
        );
        for _ in 0..2 * BACKLOG {
            assert_eq!(refusal(&second, index(0)).await, expected);
        }
        assert!(!second.has(index(0)));
        second.take_one(index(1), "eth1").await.unwrap();
        first.release();
        second.take_patiently(index(0), "eth0", OnPredecessor::WaitForIt).await.unwrap();
    }

    #[tokio::test]
    async fn a_successor_has_the_lock_before_its_predecessor_gives_it_up() {
        let (old, new, other) = (locks("/state"), locks("/state"), locks("/elsewhere"));
        old.take_one(index(2), "eth0").await.unwrap();
        new.take_patiently(index(2), "eth0", OnPredecessor::LeaveIt).await.unwrap();
        assert!(!new.has(index(2)));
        assert!(other.take_patiently(index(2), "eth0", OnPredecessor::LeaveIt).await.is_err());
        for (number, socket) in old.descriptors().unwrap() {
            new.adopt(number, socket).unwrap();
        }
        old.release();
        assert!(!old.has(index(2)) && new.has(index(2)));
        for _ in 0..2 * BACKLOG {
            assert!(refusal(&other, index(2)).await.contains("--state-dir \"/state\""));
        }
        drop(new);
        other.take_patiently(index(2), "eth0", OnPredecessor::WaitForIt).await.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_is_no_agent_is_named_too() {
        let name = SocketAddr::from_abstract_name(lock_name(index(3))).unwrap();
        let _silent = UnixListener::bind_addr(&name).unwrap();
        let text = refusal(&locks("/state"), index(3)).await;
        let expected = format!("a process that does not answer (pid {}) has link eth0", std::process::id());
        assert!(text.starts_with(&expected) && text.contains("ss -xlp"), "{text}");
    }

    #[tokio::test]
    async fn the_lock_of_a_link_that_is_gone_is_given_up() {
        let (first, second) = (locks("/first"), locks("/second"));
        first.take_one(index(4), "eth0").await.unwrap();
        first.own_of(&mut Vec::new(), &mut BTreeMap::new()).await;
        assert!(!first.has(index(4)));
        let answers = async { while second.take_one(index(4), "eth0").await.is_err() {} };
        tokio::time::timeout(RETRY_LIMIT, answers).await.unwrap();
    }
}
