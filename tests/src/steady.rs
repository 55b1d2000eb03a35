// SPDX-License-Identifier: Apache-2.0
//! Connections that stay open while something else happens, with traffic on all of them. The test decides which
//! of them may break.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::Host;
use crate::client::connect;
use crate::wait::wait_for;

/// Length of one message in bytes; each byte of the echo is compared.
const MESSAGE: usize = 64;

/// Connections to an echo server, with one message after another on each of them. Dropping it stops it.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    broken: Arc<AtomicUsize>,
    /// `None` after it was joined.
    thread: Option<JoinHandle<Vec<String>>>,
}

/// Opens `count` connections from `host`, for [`Steady::start`].
///
/// # Errors
/// One of them cannot be opened.
pub fn connect_all(host: &Host, address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    (0..count).map(|number| connect(host, address).with_context(|| format!("number {number}"))).collect()
}

impl Steady {
    /// Starts to send messages at once.
    pub fn start(streams: Vec<TcpStream>) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let broken = Arc::new(AtomicUsize::new(0));
        let (stopped, counter, failed) = (stop.clone(), rounds.clone(), broken.clone());
        let thread = std::thread::spawn(move || {
            let (mut streams, mut failures) = (streams, Vec::new());
            while !stopped.load(Ordering::Relaxed) && !streams.is_empty() {
                let round = counter.load(Ordering::Relaxed);
                let mut keep = |step: &dyn Fn(&mut TcpStream) -> Result<()>| {
                    streams.retain_mut(|stream| {
                        // After a failure and the stop, do not wait out the time limit of each connection that
                        // is left.
                        let is_over = failed.load(Ordering::Relaxed) > 0 && stopped.load(Ordering::Relaxed);
                        let failure = if is_over { None } else { step(stream).err() };
                        failures.extend(failure.iter().map(|error| format!("in round {round}: {error:#}")));
                        failed.store(failures.len(), Ordering::Relaxed);
                        failure.is_none()
                    });
                };
                // Send on all of them before reading, so that there is always something on the way.
                keep(&|stream| send(stream, round));
                keep(&|stream| receive(stream, round));
                counter.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
        Self { stop, rounds, broken, thread: Some(thread) }
    }

    /// Number of messages that each connection has carried so far.
    pub fn rounds(&self) -> usize {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Number of connections that have broken so far.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }

    /// Waits until all connections have carried `count` more messages.
    ///
    /// # Errors
    /// One has broken, or they have carried fewer within `limit`.
    pub fn wait_for_rounds(&self, count: usize, limit: Duration) -> Result<()> {
        // The round under way may have begun before this call.
        let goal = self.rounds.load(Ordering::Relaxed) + count + 1;
        wait_for(limit, &format!("{count} more messages on each connection"), || {
            self.rounds.load(Ordering::Relaxed) >= goal || self.broken() > 0 || self.is_finished()
        })?;
        ensure!(self.broken() == 0, "{} connections have broken", self.broken());
        Ok(())
    }

    /// Waits for the messages on the way, and returns one line for each connection that has broken.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn stop(mut self) -> Result<Vec<String>> {
        self.end()
    }

    fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn end(&mut self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        thread.join().map_err(|_| anyhow!("the thread with the connections panicked"))
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        // A test that did not stop it has failed already, with its own message.
        let _ = self.end();
    }
}

fn message(stream: &TcpStream, round: usize) -> Result<Vec<u8>> {
    let port = stream.local_addr()?.port();
    let text = format!("{port} {round} ");
    Ok(text.bytes().cycle().take(MESSAGE).collect())
}

fn send(stream: &mut TcpStream, round: usize) -> Result<()> {
    let message = message(stream, round)?;
    stream.write_all(&message).with_context(|| format!("{} can't send", who(stream)))
}

fn receive(stream: &mut TcpStream, round: usize) -> Result<()> {
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer).with_context(|| format!("{} has no echo", who(stream)))?;
    ensure!(answer == *message(stream, round)?, "{}: another echo: {answer:?}", who(stream));
    Ok(())
}

fn who(stream: &TcpStream) -> String {
    let port = stream.local_addr().map(|address| address.port()).unwrap_or_default();
    let peer = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    format!("{port} -> {peer}")
}
