// SPDX-License-Identifier: Apache-2.0
//! Questions and changes over a socket that is opened again after it failed.
//! What is asked is in the files of the subjects.

use std::io;
use std::time::Duration;

use rtnetlink::packet_route::RouteNetlinkMessage;

use super::answer::{Answer, End};
use super::dump::{Dump, Kind};
use super::failure::Failure;
use super::socket::Socket;

/// The kernel answers at once; this only ends the wait for an answer that was
/// lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A netlink connection to the kernel.
#[derive(Debug)]
pub(crate) struct Connection {
    /// `None` after a failure.
    socket: Option<Socket>,
}

impl Connection {
    /// Opens the socket in the caller's network namespace.
    ///
    /// # Errors
    /// The kernel does not provide one.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: Some(Socket::open()?) })
    }

    /// Carries out `change`; `flags` are its NLM_F_ bits beyond REQUEST and ACK.
    ///
    /// # Errors
    /// With an error number if the kernel refused the change. Otherwise the
    /// connection failed, and whether the change was made is unknown.
    pub(crate) async fn change(&mut self, change: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(change, End::Ack, flags).await?;
        Ok(())
    }

    /// The answer about a single object.
    pub(super) async fn ask(
        &mut self,
        question: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        Ok(self.exchange(question, End::Ack, 0).await?.messages)
    }

    /// As [`Connection::ask`], but empty if the kernel answers with an error,
    /// which means that there is no such object.
    pub(super) async fn ask_or_nothing(
        &mut self,
        question: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        match self.exchange(question, End::Ack, 0).await {
            Ok(answer) => Ok(answer.messages),
            Err(Failure::Refused(_)) => Ok(Vec::new()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The whole list that `question` asks for.
    pub(super) async fn dump(&mut self, kind: Kind, question: RouteNetlinkMessage) -> io::Result<Answer> {
        let mut dump = Dump::new(kind);
        loop {
            let reading = self.exchange(question.clone(), End::Done, 0).await;
            if let Some(list) = dump.add(reading)? {
                return Ok(list);
            }
        }
    }

    async fn exchange(
        &mut self,
        question: RouteNetlinkMessage,
        end: End,
        flags: u16,
    ) -> Result<Answer, Failure> {
        // Put back only after a whole answer: on a socket that failed, or whose
        // question was abandoned, the rest of an old answer could arrive.
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::open().map_err(Failure::Socket)?,
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, socket.exchange(question, end, flags)).await;
        let answer = answer.unwrap_or(Err(Failure::TimedOut { limit: ANSWER_TIMEOUT }));
        if matches!(answer, Ok(_) | Err(Failure::Refused(_))) {
            self.socket = Some(socket);
        }
        answer
    }
}
