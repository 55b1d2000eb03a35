// SPDX-License-Identifier: Apache-2.0
//! TCP connections to echo servers, each with a message every second or so, of which every byte is compared. Half of
//! them stay open to the end; the others are closed and opened again now and then. The test decides which may be
//! lost.

#![expect(clippy::disallowed_methods, reason = "tests wait and measure by the real clock")]

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::tally::{Loss, Tally};
use crate::Host;
use crate::wait::wait_until;

/// The pause before each message, in milliseconds.
const PAUSE: std::ops::Range<u64> = 100..3000;
/// Length of most messages in bytes.
const SHORT: usize = 64;
/// One message in so many is longer, at most as long as the buffers of a socket.
const RARE: u32 = 10;
const LONGEST: usize = 32 << 10;
/// Life of a connection that is opened again, in milliseconds.
const LIFE: std::ops::Range<u64> = 4000..20_000;
/// An attempt to open a connection, and the pause before the next one.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
const OPEN_PAUSE: Duration = Duration::from_millis(300);
/// After the last event: TCP repeats what was lost after at most 120 s (Linux: TCP_RTO_MAX), however long the network was away.
const RECOVERY: Duration = Duration::from_secs(130);

/// Connections of one group. Dropping it ends them.
#[derive(Debug)]
pub struct Conversations {
    stop: watch::Sender<bool>,
    book: Arc<Mutex<Tally>>,
    /// `None` after it was joined.
    thread: Option<JoinHandle<Result<()>>>,
}

/// Which connections a group opens.
#[derive(Clone, Debug)]
pub struct Group {
    /// The names of their lines begin with it.
    pub name: &'static str,
    /// Where they lead, in turn.
    pub targets: Vec<SocketAddr>,
    /// How many there are.
    pub count: usize,
    /// A proxy accepts connections. It does so before it has reached the server, so a connection counts as open when the
    /// first echo has come.
    pub is_proxied: bool,
    /// For pauses and lengths.
    pub seed: u64,
    /// The beginning of the run; times in the tally are measured from here.
    pub since: Instant,
}

impl Conversations {
    /// Opens all connections from `host`, and waits until they are open.
    ///
    /// # Errors
    /// Some did not open within `limit`.
    pub fn open(host: &Host, group: &Group, limit: Duration) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let opened = Arc::new(AtomicUsize::new(0));
        let book = Arc::new(Mutex::new(Tally::default()));
        let (inside, plan) = (host.clone(), group.clone());
        let (notes, counter) = (book.clone(), opened.clone());
        let thread = std::thread::spawn(move || {
            inside.enter_for_good()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for number in 0..plan.count {
                    let client = Client {
                        number: number as u64,
                        target: plan.targets[number % plan.targets.len()],
                        // Both kinds go to each target.
                        stays: (number / plan.targets.len()).is_multiple_of(2),
                        random: StdRng::seed_from_u64(plan.seed ^ (number as u64).wrapping_mul(0x9e37_79b9)),
                        is_proxied: plan.is_proxied,
                        carried: 0,
                        since: plan.since,
                        name: plan.name,
                        book: notes.clone(),
                        opened: counter.clone(),
                        stopped: stopped.clone(),
                    };
                    clients.spawn(client.run());
                }
                while clients.join_next().await.is_some() {}
            });
            Ok(())
        });
        let conversations = Self { stop, book, thread: Some(thread) };
        wait_until(limit, &format!("{}: {} connections", group.name, group.count), || {
            let open = opened.load(Ordering::Relaxed);
            ensure!(open >= group.count, "{open} are open: {:?}", conversations.tally());
            Ok(Some(()))
        })?;
        Ok(conversations)
    }

    /// What became of them so far.
    pub fn tally(&self) -> Tally {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends one more message on each connection, and returns what became of all.
    ///
    /// # Errors
    /// The namespace could not be entered.
    pub fn stop(mut self) -> Result<Tally> {
        self.end()?;
        Ok(self.tally())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the thread with the connections panicked"))?
    }
}

impl Drop for Conversations {
    fn drop(&mut self) {
        // A test that did not stop it has failed already, with its own message.
        let _ = self.end();
    }
}

/// One client, which has one connection after the other.
struct Client {
    number: u64,
    target: SocketAddr,
    /// Whether its first connection stays open to the end.
    stays: bool,
    random: StdRng,
    is_proxied: bool,
    /// Bytes that came back on the present connection.
    carried: u64,
    since: Instant,
    name: &'static str,
    book: Arc<Mutex<Tally>>,
    opened: Arc<AtomicUsize>,
    stopped: watch::Receiver<bool>,
}

impl Client {
    async fn run(mut self) {
        for generation in 0.. {
            let Some(mut stream) = self.connect().await else { return };
            if generation == 0 {
                self.opened.fetch_add(1, Ordering::Relaxed);
            }
            let local = stream.local_addr().map_or_else(|_| String::new(), |address| address.to_string());
            let mut stopped = self.stopped.clone();
            let outcome = tokio::select! {
                outcome = self.converse(&mut stream, generation) => outcome,
                () = time_is_up(&mut stopped) => {
                    Err(io::Error::new(io::ErrorKind::WouldBlock, format!("nothing more within {RECOVERY:?}")))
                }
            };
            let ended = self.since.elapsed().as_secs_f32();
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            let Err(error) = outcome else {
                book.kept += 1;
                continue;
            };
            if self.is_proxied && self.carried == 0 && error.kind() != io::ErrorKind::InvalidData {
                *book.not_opened.entry(format!("before the first echo: {}", error.kind())).or_default() += 1;
                continue;
            }
            let is_stuck = error.kind() == io::ErrorKind::WouldBlock;
            let loss = if is_stuck { Loss::Stuck } else { Loss::of(&error) };
            let Self { name, target, carried, .. } = self;
            let connection = format!("{name}: {local} to {target}, generation {generation}, {carried} bytes");
            book.lose(loss, format!("{connection}, {loss:?} at {ended:.1} s: {error}"));
        }
    }

    /// Tries until it succeeds; `None` once the group ends.
    async fn connect(&mut self) -> Option<TcpStream> {
        while !*self.stopped.borrow() {
            let error = match timeout(OPEN_LIMIT, TcpStream::connect(self.target)).await {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => error.kind().to_string(),
                Err(_) => "no answer within 5 s".to_owned(),
            };
            *self.book().not_opened.entry(error).or_default() += 1;
            sleep(OPEN_PAUSE).await;
        }
        None
    }

    /// Sends messages until the connection's time or the group ends, and closes it in order.
    async fn converse(&mut self, stream: &mut TcpStream, generation: u64) -> io::Result<()> {
        let stream_number = self.number << 32 | generation;
        let life = Duration::from_millis(self.random.random_range(LIFE));
        let born = Instant::now();
        self.carried = 0;
        loop {
            let pause = Duration::from_millis(self.random.random_range(PAUSE));
            let is_last = tokio::select! {
                () = sleep(pause) => false,
                _ = self.stopped.wait_for(|&stop| stop) => true,
            };
            let is_long = self.random.random_ratio(1, RARE);
            let length = if is_long { self.random.random_range(SHORT..LONGEST) } else { SHORT };
            exchange(stream, stream_number, self.carried, length).await?;
            self.carried += length as u64;
            self.book().messages += 1;
            if is_last || (!self.stays && born.elapsed() >= life) {
                break;
            }
        }
        stream.shutdown().await?;
        match stream.read(&mut [0]).await? {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "more than the echo")),
        }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn time_is_up(stopped: &mut watch::Receiver<bool>) {
    // An error means that the owner is gone, which also ends the group.
    let _ = stopped.wait_for(|&stop| stop).await;
    sleep(RECOVERY).await;
}

/// Sends a message, and compares its echo.
async fn exchange(stream: &mut TcpStream, number: u64, carried: u64, length: usize) -> io::Result<()> {
    let message: Vec<u8> = (carried..carried + length as u64).map(|place| byte(number, place)).collect();
    let mut echo = vec![0; length];
    let (mut read, mut write) = stream.split();
    tokio::try_join!(write.write_all(&message), async { read.read_exact(&mut echo).await.map(drop) })?;
    if echo == message {
        return Ok(());
    }
    let place = carried as usize + echo.iter().zip(&message).take_while(|(one, other)| one == other).count();
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("byte {place} differs")))
}

/// The byte at a place of a stream. It depends on all bits of both numbers.
fn byte(stream: u64, place: u64) -> u8 {
    let mixed = (stream.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place;
    (mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 56) as u8
}
