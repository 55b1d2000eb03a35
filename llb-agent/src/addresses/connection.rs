//! Questions to the kernel over rtnetlink, and whole answers. It knows
//! messages, not VIPs.
//!
//! An answer is complete or an error, never a part: taken for the whole, a
//! part would hide foreign addresses.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

/// The kernel answers in the same system call; this only ends a wait for an
/// answer that was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A list that changed while it was read is read again this often.
const DUMP_ATTEMPTS: usize = 10;

/// A netlink socket for questions; opened again after it failed.
#[derive(Debug)]
pub(super) struct Connection {
    handle: Option<rtnetlink::Handle>,
}

struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    /// The list changed while it was read.
    interrupted: bool,
}

impl Connection {
    /// Opens the socket in the caller's network namespace.
    ///
    /// # Errors
    /// The kernel has no socket for us.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { handle: Some(connect()?) })
    }

    /// The link of that name; `None` if there is none.
    pub(super) async fn link(&mut self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answer = match self.ask(RouteNetlinkMessage::GetLink(question), NLM_F_ACK).await {
            Ok(answer) => answer,
            // The last two: a name that no link can have.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let link = answer.messages.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        link.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer without a link"))
    }

    /// All addresses of all links, in the kernel's order.
    pub(super) async fn addresses(&mut self) -> io::Result<Vec<AddressMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
            let answer = self.ask(question, NLM_F_DUMP).await?;
            if !answer.interrupted {
                let addresses = answer.messages.into_iter().filter_map(|message| match message {
                    RouteNetlinkMessage::NewAddress(address) => Some(address),
                    _ => None,
                });
                return Ok(addresses.collect());
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the addresses change faster than they can be read"))
    }

    /// Carries out `change`; `flags` are its NLM_F_ bits beyond REQUEST and ACK.
    pub(super) async fn change(&mut self, change: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(change, NLM_F_ACK | flags).await.map(|_| ())
    }

    async fn ask(&mut self, question: RouteNetlinkMessage, flags: u16) -> io::Result<Answer> {
        let handle = match &mut self.handle {
            Some(handle) => handle,
            closed => closed.insert(connect()?),
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange(handle, question, flags)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if matches!(&answer, Err(error) if error.raw_os_error().is_none()) {
            // Not the kernel's word, so the connection is in doubt.
            self.handle = None;
        }
        answer
    }
}

fn connect() -> io::Result<rtnetlink::Handle> {
    let (mut connection, handle, _) = rtnetlink::new_connection()?;
    // The end of each answer is shown, or a closed connection looks like one.
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    tokio::spawn(connection);
    Ok(handle)
}

async fn exchange(
    handle: &mut rtnetlink::Handle,
    question: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<Answer> {
    let mut request = NetlinkMessage::from(question);
    request.header.flags = NLM_F_REQUEST | flags;
    let mut stream = handle.request(request).map_err(io::Error::other)?;
    let mut answer = Answer { messages: Vec::new(), interrupted: false };
    while let Some(message) = stream.next().await {
        answer.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => answer.messages.push(inner),
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answer),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(done) if done.code == 0 => return Ok(answer),
            NetlinkPayload::Done(done) => return Err(io::Error::from_raw_os_error(done.code.abs())),
            _ => break,
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off"))
}
