// SPDX-License-Identifier: Apache-2.0
//! UDP: numbered questions, whose answers must repeat the question. Half of the clients keep their socket; the others
//! use a new one for each question, as resolvers do. The test decides how many answers may be missing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Host;

/// The pause before each question, in milliseconds.
const PAUSE: std::ops::Range<u64> = 100..1000;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_millis(1000);
/// Questions after the last event, of which one must be answered.
const LAST_QUESTIONS: usize = 40;

/// Clients that ask. Dropping it ends them.
#[derive(Debug)]
pub struct Questions {
    stop: watch::Sender<bool>,
    book: Arc<Mutex<Answers>>,
    /// `None` after it was joined.
    thread: Option<JoinHandle<Result<()>>>,
}

/// What became of the questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Questions that were answered.
    pub answered: usize,
    /// Questions without an answer, by the reason.
    pub missing: BTreeMap<String, usize>,
    /// Answers to another question than the socket's own ones.
    pub wrong: Vec<String>,
    /// Clients that got no answer although the network was whole.
    pub stuck: usize,
}

impl Answers {
    /// What is worse with llb (`self`) than with plain routing. No answer may be wrong in either group.
    pub fn worse_than(&self, plain: &Self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, group) in [("llb", self), ("plain routing", plain)] {
            if group.answered == 0 {
                complaints.push(format!("{name} answered no question"));
            }
            complaints.extend(group.wrong.iter().map(|line| format!("{name}: {line}")));
        }
        if self.stuck > plain.stuck {
            complaints.push(format!(
                "{} UDP clients stuck with llb, {} with plain routing",
                self.stuck, plain.stuck
            ));
        }
        complaints
    }
}

impl Questions {
    /// Starts `count` clients on `host`, which ask the targets in turn.
    pub fn start(host: &Host, targets: &[SocketAddr], count: usize, seed: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let book = Arc::new(Mutex::new(Answers::default()));
        let (inside, targets, notes) = (host.clone(), targets.to_vec(), book.clone());
        let thread = std::thread::spawn(move || {
            inside.enter_for_good()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for number in 0..count {
                    let keeps_socket = (number / targets.len()).is_multiple_of(2);
                    let client = Client {
                        number,
                        target: targets[number % targets.len()],
                        asked: 0,
                        socket: None,
                        keeps_socket,
                        random: StdRng::seed_from_u64(seed ^ (number as u64).wrapping_mul(0x9e37_79b9)),
                        book: notes.clone(),
                    };
                    clients.spawn(client.run(stopped.clone()));
                }
                while clients.join_next().await.is_some() {}
            });
            Ok(())
        });
        Self { stop, book, thread: Some(thread) }
    }

    /// Asks until each client has one more answer, and returns what became of all.
    ///
    /// # Errors
    /// The namespace could not be entered.
    pub fn stop(mut self) -> Result<Answers> {
        self.end()?;
        Ok(self.book.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the asking thread panicked"))?
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        // A test that did not stop it has failed already, with its own message.
        let _ = self.end();
    }
}

struct Client {
    number: usize,
    target: SocketAddr,
    asked: usize,
    socket: Option<UdpSocket>,
    keeps_socket: bool,
    random: StdRng,
    book: Arc<Mutex<Answers>>,
}

impl Client {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            let pause = Duration::from_millis(self.random.random_range(PAUSE));
            let is_over = tokio::select! {
                () = sleep(pause) => false,
                _ = stopped.wait_for(|&stop| stop) => true,
            };
            if is_over {
                break;
            }
            self.ask().await;
        }
        for _ in 0..LAST_QUESTIONS {
            if self.ask().await {
                return;
            }
            sleep(ANSWER_LIMIT / 4).await;
        }
        self.note(|book| book.stuck += 1);
    }

    /// Asks once and notes the outcome; true if the answer came.
    async fn ask(&mut self) -> bool {
        match self.try_to_ask().await {
            Ok(()) => self.note(|book| book.answered += 1),
            Err(error) => {
                self.note(|book| *book.missing.entry(error.to_string()).or_default() += 1);
                return false;
            }
        }
        true
    }

    async fn try_to_ask(&mut self) -> Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.open().await?,
        };
        self.asked += 1;
        let question = format!("{}/{}", self.number, self.asked);
        let sent = socket.send(question.as_bytes()).await;
        let answer = match sent {
            Ok(_) => timeout(ANSWER_LIMIT, self.answer(&socket, &question)).await,
            Err(error) => Ok(Err(error.into())),
        };
        if self.keeps_socket {
            self.socket = Some(socket);
        }
        answer.map_err(|_| anyhow!("no answer"))?
    }

    async fn open(&self) -> Result<UdpSocket> {
        let any: IpAddr = match self.target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(self.target).await?;
        Ok(socket)
    }

    /// Reads until the answer to `question` comes. Answers to older questions of this socket may be late.
    async fn answer(&self, socket: &UdpSocket, question: &str) -> Result<()> {
        let mut buffer = [0; 2048];
        loop {
            let count = socket.recv(&mut buffer).await?;
            let text = String::from_utf8_lossy(&buffer[..count]);
            // "<name> <peer> <question>"
            let repeated = text.rsplit(' ').next().unwrap_or_default();
            if repeated == question {
                return Ok(());
            }
            let is_older = repeated.split_once('/').is_some_and(|(number, asked)| {
                self.keeps_socket
                    && number.parse() == Ok(self.number)
                    && asked.parse().is_ok_and(|asked: usize| asked < self.asked)
            });
            if !is_older {
                self.note(|book| book.wrong.push(format!("{question} was answered by {text}")));
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_and_a_client_without_answers_are_seen() {
        let good = Answers { answered: 9, ..Answers::default() };
        assert_eq!(good.worse_than(&good), [""; 0]);
        let wrong = Answers { wrong: vec!["1/1 was answered by 2/1".to_owned()], ..good.clone() };
        assert_eq!(wrong.worse_than(&good), ["llb: 1/1 was answered by 2/1"]);
        let stuck = Answers { stuck: 1, ..good.clone() };
        assert_eq!(stuck.worse_than(&good), ["1 UDP clients stuck with llb, 0 with plain routing"]);
        assert_eq!(Answers::default().worse_than(&good), ["llb answered no question"]);
    }
}
