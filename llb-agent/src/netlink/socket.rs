// SPDX-License-Identifier: Apache-2.0
//! A netlink socket: one question at a time, and its answer. It does not
//! reconnect.

use std::fmt;
use std::io;

use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::answer::{Answer, End};
use super::failure::Failure;

/// The kernel's address: port 0, no multicast group.
const KERNEL: (u32, u32) = (0, 0);

/// The kernel's datagrams have at most 32 KiB (`netlink_recvmsg`). A longer one
/// would be cut off, which [`Answer`] notices.
const LARGEST_DATAGRAM: usize = 64 << 10;

pub(super) struct Socket {
    socket: TokioSocket,
    /// Of the last question.
    sequence: u32,
}

impl Socket {
    /// Opens the socket in the caller's network namespace.
    ///
    /// # Errors
    /// The kernel does not provide one.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: TokioSocket::new(NETLINK_ROUTE)?, sequence: 0 })
    }

    /// Sends `question` and waits for the whole answer, which ends with `end`.
    /// `flags` are further NLM_F_ bits of the question. After an error other than
    /// [`Failure::Refused`], or if it is dropped midway, messages of the old
    /// answer may still arrive: use another socket then.
    pub(super) async fn exchange(
        &mut self,
        question: RouteNetlinkMessage,
        end: End,
        flags: u16,
    ) -> Result<Answer, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(question);
        request.header.flags = NLM_F_REQUEST | end.flags() | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(KERNEL.0, KERNEL.1)).await.map_err(Failure::Socket)?;

        let mut answer = Answer::new(self.sequence, end);
        let mut datagram = Vec::with_capacity(LARGEST_DATAGRAM);
        loop {
            datagram.clear();
            let sender = self.socket.recv_from(&mut datagram).await.map_err(Failure::Socket)?;
            // Root's processes can send to this socket, too.
            if sender.port_number() == KERNEL.0 && answer.add(&datagram)? {
                return Ok(answer);
            }
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}
