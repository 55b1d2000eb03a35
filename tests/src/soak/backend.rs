// SPDX-License-Identifier: Apache-2.0
//! The backends of a soak: stand-ins for the programs behind a Service. They follow the script and say what
//! they saw.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::script::{Ending, Order, Pattern, Script};
use super::seen::{Book, Seen, note};
use super::transfer::{Transfer, keep_alive, read_some, receive, reset, send};
use crate::Host;

/// Backends on some hosts. Dropping it ends them.
#[derive(Debug)]
pub struct Backends {
    book: Book,
    open: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Backends {
    /// Listens on each address, on the host beside it.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub fn start(places: &[(&Host, SocketAddr)], seed: u64) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut backends = Self { book: Book::default(), open: Arc::default(), stop, threads: Vec::new() };
        for &(host, address) in places {
            let listener = host.run_inside(|| std::net::TcpListener::bind(address))?;
            let listener = listener.with_context(|| format!("cannot bind {address} on {}", host.name()))?;
            listener.set_nonblocking(true)?;
            let (book, open, stopped) = (backends.book.clone(), backends.open.clone(), stopped.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            backends.threads.push(std::thread::spawn(move || {
                runtime.block_on(accept(listener, seed, book, open, stopped));
            }));
        }
        Ok(backends)
    }

    /// Number of connections that have not ended.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Takes what they saw of the connections so far.
    pub(super) fn book(&self) -> BTreeMap<u64, Seen> {
        std::mem::take(&mut *self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: std::net::TcpListener,
    seed: u64,
    book: Book,
    open: Arc<AtomicUsize>,
    mut stopped: watch::Receiver<bool>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let pattern = Arc::new(Pattern::new(seed));
    loop {
        let stream = tokio::select! {
            _ = stopped.wait_for(|&stop| stop) => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        keep_alive(&stream);
        open.fetch_add(1, Ordering::SeqCst);
        let (book, open, pattern) = (book.clone(), open.clone(), pattern.clone());
        tokio::spawn(async move {
            if let Some((number, seen)) = follow(stream, seed, &pattern).await {
                note(&book, number, seen);
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// `None` if the connection was reset before its number arrived.
async fn follow(stream: TcpStream, seed: u64, pattern: &Pattern) -> Option<(u64, Seen)> {
    let number = read_number(&stream).await?;
    let script = Script::of(seed, number);
    let up = Transfer { number, length: script.up, stalls: false, slow: script.backend_reads_slowly };
    let down = Transfer { number: !number, length: script.down, stalls: false, slow: false };
    if let Ending::BackendResets { after } = script.ending {
        let _ = send(&stream, pattern, Transfer { length: after, ..down }).await;
        reset(stream);
        return Some((number, Seen::Reset));
    }
    let sending = async {
        send(&stream, pattern, down).await?;
        rustix::net::shutdown(&stream, rustix::net::Shutdown::Write).map_err(io::Error::from)
    };
    let (sent, seen) = match script.order {
        Order::ClientFirst => {
            let seen = receive(&stream, pattern, up).await;
            (sending.await, seen)
        }
        Order::BackendFirst => {
            let sent = sending.await;
            (sent, receive(&stream, pattern, up).await)
        }
        Order::Together => tokio::join!(sending, receive(&stream, pattern, up)),
    };
    Some((number, Seen::of(sent, seen)))
}

async fn read_number(stream: &TcpStream) -> Option<u64> {
    let mut bytes = [0; 8];
    let mut read = 0;
    while read < bytes.len() {
        match read_some(stream, &mut bytes[read..]).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => read += count,
        }
    }
    Some(u64::from_be_bytes(bytes))
}
