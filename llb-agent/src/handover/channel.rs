// SPDX-License-Identifier: Apache-2.0
//! Messages and descriptors over a stream socket. What they mean is not known
//! here.
//!
//! Each message is its length (4 bytes, network order) and then JSON; its
//! descriptors come with the first byte (unix(7), `SCM_RIGHTS`).

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

use super::message::{ANSWER_LIMIT, Goods, Message, unexpected};

/// Descriptors of one message. The kernel takes 253 (`SCM_MAX_FD`).
const DESCRIPTORS: usize = 128;

/// A message with [`DESCRIPTORS`] items takes some 16 KiB.
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

    pub(super) async fn send(&mut self, message: &Message) -> io::Result<()> {
        within(ANSWER_LIMIT, self.send_with(message, &[])).await
    }

    /// The next message, which has no descriptors, within `limit`.
    pub(super) async fn receive(&mut self, limit: Duration) -> io::Result<Message> {
        Ok(within(limit, self.receive_with()).await?.0)
    }

    /// As [`Channel::receive`], however long it takes.
    pub(super) async fn receive_sometime(&mut self) -> io::Result<Message> {
        Ok(self.receive_with().await?.0)
    }

    pub(super) async fn send_goods(&mut self, goods: &Goods) -> io::Result<()> {
        // Without any, one message says so.
        let batches = goods.len().div_ceil(DESCRIPTORS).max(1);
        for number in 0..batches {
            let start = number * DESCRIPTORS;
            let batch = &goods[start..goods.len().min(start + DESCRIPTORS)];
            let items = batch.iter().map(|(item, _)| item.clone()).collect();
            let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, fd)| fd.as_fd()).collect();
            let message = Message::Goods { items, more: number + 1 < batches };
            within(ANSWER_LIMIT, self.send_with(&message, &descriptors)).await?;
        }
        Ok(())
    }

    pub(super) async fn receive_goods(&mut self, limit: Duration) -> io::Result<Goods> {
        let mut goods = Goods::new();
        loop {
            let (message, descriptors) = within(limit, self.receive_with()).await?;
            let Message::Goods { items, more } = message else { return Err(unexpected(&message)) };
            if items.len() != descriptors.len() {
                // The kernel leaves out those beyond the limit of open files.
                return Err(io::Error::other(
                    "descriptors are missing; see the limit of open files (ulimit -n)",
                ));
            }
            goods.extend(items.into_iter().zip(descriptors));
            if !more {
                return Ok(goods);
            }
        }
    }

    async fn send_with(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes()[..], &body].concat();
        let sent = self.stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
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
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is no message"));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((serde_json::from_slice(&body)?, descriptors))
    }

    async fn receive_some(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
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
