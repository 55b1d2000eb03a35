// SPDX-License-Identifier: Apache-2.0
//! Sends and receives messages with descriptors over a stream socket. It does
//! not know what they mean.
//!
//! A message is its length (4 bytes, network order), followed by JSON. Its
//! descriptors come with the first byte (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::message::{ANSWER_LIMIT, Descriptors, Message, unexpected};

/// The most descriptors in one message. The kernel's limit is 253 (`SCM_MAX_FD`).
const MOST_DESCRIPTORS: usize = 128;

/// The longest JSON in bytes. [`MOST_DESCRIPTORS`] items take about 16 KiB.
const LARGEST: usize = 64 << 10;

const HEADER: usize = size_of::<u32>();

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Sends a message without descriptors.
    pub(super) async fn send(&mut self, message: &Message) -> io::Result<()> {
        within(ANSWER_LIMIT, self.send_with(message, &[])).await
    }

    /// Waits at most `limit` for the next message, which has no descriptors.
    pub(super) async fn receive(&mut self, limit: Duration) -> io::Result<Message> {
        Ok(within(limit, self.receive_with()).await?.0)
    }

    /// As [`Channel::receive`], but without a limit.
    pub(super) async fn receive_without_limit(&mut self) -> io::Result<Message> {
        Ok(self.receive_with().await?.0)
    }

    /// Sends all of them, in as many messages as they need.
    pub(super) async fn send_descriptors(&mut self, all: &Descriptors) -> io::Result<()> {
        // If there are none, one message without items says so.
        let batches = all.len().div_ceil(MOST_DESCRIPTORS).max(1);
        for number in 0..batches {
            let start = number * MOST_DESCRIPTORS;
            let batch = &all[start..all.len().min(start + MOST_DESCRIPTORS)];
            let items = batch.iter().map(|(item, _)| item.clone()).collect();
            let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, fd)| fd.as_fd()).collect();
            let message = Message::Descriptors { items, more: number + 1 < batches };
            within(ANSWER_LIMIT, self.send_with(&message, &descriptors)).await?;
        }
        Ok(())
    }

    /// Waits for descriptors, at most `limit` for each message of them.
    pub(super) async fn receive_descriptors(&mut self, limit: Duration) -> io::Result<Descriptors> {
        let mut descriptors = Descriptors::new();
        loop {
            let (message, found) = within(limit, self.receive_with()).await?;
            let Message::Descriptors { items, more } = message else { return Err(unexpected(&message)) };
            if items.len() != found.len() {
                // The kernel drops descriptors beyond the limit of open files.
                return Err(io::Error::other(format!(
                    "{} of {} descriptors arrived; raise the limit of open files (ulimit -n)",
                    found.len(),
                    items.len()
                )));
            }
            descriptors.extend(items.into_iter().zip(found));
            if !more {
                return Ok(descriptors);
            }
        }
    }

    async fn send_with(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes()[..], &body].concat();
        let sent = self.stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::other("too many descriptors for one message"));
            }
            Ok(sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
        });
        let sent = sent.await?;
        self.stream.write_all(&bytes[sent..]).await
    }

    async fn receive_with(&mut self) -> io::Result<(Message, Vec<OwnedFd>)> {
        let (mut header, mut filled, mut descriptors) = ([0; HEADER], 0, Vec::new());
        while filled < HEADER {
            let (count, found) = self.receive_some(&mut header[filled..]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += count;
            descriptors.extend(found);
        }
        let length = u32::from_be_bytes(header) as usize;
        if length > LARGEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {length} bytes, which is too long"),
            ));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((serde_json::from_slice(&body)?, descriptors))
    }

    async fn receive_some(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let slice = &mut [IoSliceMut::new(buffer)];
                let count = recvmsg(&self.stream, slice, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
                let mut descriptors = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(found) = message {
                        descriptors.extend(found);
                    }
                }
                Ok((count, descriptors))
            })
            .await
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|late| Err(late.into()))
}
