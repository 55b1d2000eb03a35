// SPDX-License-Identifier: Apache-2.0
//! Collects the messages of one answer from the kernel's datagrams. Pure bytes
//! in, messages out. Anything that could hide a message is an error.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR};
use rtnetlink::packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::failure::Failure;
use super::gateways::{RTM_NEWROUTE, gateways_of};
use super::link_attributes;

/// Each message starts at a multiple of this (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// An answer, as far as it has arrived.
#[derive(Debug)]
pub(super) struct Answer {
    /// Messages with another number answer another question.
    sequence: u32,
    end: End,
    pub(super) messages: Vec<RouteNetlinkMessage>,
    /// Of the routes, if it is a list of them. The routes themselves are not kept.
    pub(super) gateways: BTreeSet<(u32, IpAddr)>,
    /// The kernel has flagged that the list changed while it was read.
    pub(super) interrupted: bool,
}

/// The message that ends an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// NLMSG_DONE ends a dump.
    Done,
    /// NLMSG_ERROR with code 0 ends the answer to any other question.
    Ack,
}

impl End {
    /// The NLM_F_ bits of a question whose answer ends so.
    pub(super) fn flags(self) -> u16 {
        match self {
            Self::Done => NLM_F_DUMP,
            Self::Ack => NLM_F_ACK,
        }
    }
}

impl Answer {
    pub(super) fn new(sequence: u32, end: End) -> Self {
        Self { sequence, end, messages: Vec::new(), gateways: BTreeSet::new(), interrupted: false }
    }

    /// Takes in one datagram; true when the answer is complete.
    ///
    /// # Errors
    /// The answer is an error, or it will never be complete.
    pub(super) fn add(&mut self, datagram: &[u8]) -> Result<bool, Failure> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let header = NetlinkBuffer::new_checked(rest).map_err(|_| Failure::CutOff)?;
            let length = header.length() as usize;
            if header.sequence_number() == self.sequence && self.add_message(&rest[..length])? {
                return Ok(true);
            }
            rest = &rest[length.next_multiple_of(ALIGNMENT).min(rest.len())..];
        }
        Ok(false)
    }

    fn add_message(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        let bytes = link_attributes::only_used(bytes);
        let header = NetlinkBuffer::new(&bytes);
        let message_type = header.message_type();
        if message_type == RTM_NEWROUTE && self.end == End::Done {
            self.interrupted |= header.flags() & NLM_F_DUMP_INTR != 0;
            self.gateways.extend(gateways_of(&bytes));
            return Ok(false);
        }
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
            .map_err(|source| Failure::Undecodable { message_type, source })?;
        // Also set on NLMSG_DONE alone, if the change came after the last entry.
        self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        let end = match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                self.messages.push(inner);
                return Ok(false);
            }
            NetlinkPayload::Noop => return Ok(false),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(Failure::Refused(error.to_io()));
            }
            NetlinkPayload::Error(_) => End::Ack,
            NetlinkPayload::Done(done) if done.code != 0 => {
                return Err(Failure::Refused(io::Error::from_raw_os_error(done.code.abs())));
            }
            NetlinkPayload::Done(_) => End::Done,
            _ => return Err(Failure::Lost), // NLMSG_OVERRUN, the only other one.
        };
        if end == self.end { Ok(true) } else { Err(Failure::EndedEarly) }
    }
}
