// SPDX-License-Identifier: Apache-2.0
//! The backends of a soak, and the moving of bytes that both ends share.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::script::{Ending, Order, Pattern, Script};
use super::{Book, Seen, note};
use crate::Host;

/// A slow reader takes so many bytes at a time ...
const SIP: usize = 512;
/// ... with a rest after each, for the first so many.
const SIPS: u32 = 50;
/// A rest.
const REST: Duration = Duration::from_millis(2);

/// Backends on one host; they end when this is dropped.
#[derive(Debug)]
pub struct Backends {
    book: Book,
    open: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Backends {
    /// Listens on each address of its host.
    ///
    /// # Errors
    /// One can't be bound.
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

    /// Connections that have not ended.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// What they saw; forgotten by this.
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

/// `None`: reset before its number was known.
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

// === What both ends share ===

/// One direction.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    /// Chooses the bytes.
    pub(super) number: u64,
    pub(super) length: u64,
    pub(super) stalls: bool,
    pub(super) slow: bool,
}

pub(super) async fn send(stream: &TcpStream, pattern: &Pattern, transfer: Transfer) -> io::Result<()> {
    let mut sent = 0;
    while sent < transfer.length {
        let bytes = pattern.from(transfer.number, sent);
        let left = usize::try_from(transfer.length - sent).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(left)];
        write_all(stream, bytes).await?;
        if transfer.stalls && sent <= transfer.length / 2 {
            tokio::time::sleep(REST * 10).await;
        }
        sent += bytes.len() as u64;
    }
    Ok(())
}

/// Reads to the end, and compares.
pub(super) async fn receive(stream: &TcpStream, pattern: &Pattern, transfer: Transfer) -> Seen {
    let mut buffer = vec![0; if transfer.slow { SIP } else { 64 << 10 }];
    let (mut received, mut sips) = (0u64, 0);
    loop {
        let count = match read_some(stream, &mut buffer).await {
            Ok(0) if received == transfer.length => return Seen::Complete,
            Ok(0) => return Seen::Torn(received),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Seen::Reset,
            Err(error) => return Seen::Wrong(error.to_string()),
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let expected = pattern.from(transfer.number, received);
            let length = rest.len().min(expected.len());
            if rest[..length] != expected[..length] {
                return Seen::Wrong(format!("other bytes than were sent, at {received} or after"));
            }
            received += length as u64;
            rest = &rest[length..];
        }
        if transfer.slow && sips < SIPS {
            sips += 1;
            tokio::time::sleep(REST).await;
        } else if transfer.slow && buffer.len() == SIP {
            buffer = vec![0; 64 << 10];
        }
    }
}

pub(super) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn read_some(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
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

/// Closes with a reset.
pub(super) fn reset(stream: TcpStream) {
    // It only fails on a socket that is gone already.
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
