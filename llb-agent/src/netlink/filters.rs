// SPDX-License-Identifier: Apache-2.0
//! The filters of a link's clsact qdisc, and the removal of both. Blocking: the kernel answers while it takes the
//! question. Only the fixed part of a message is read, so filters of any kind are seen. Each question has a socket
//! of its own.

use std::io;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

const LARGEST_DATAGRAM: usize = 64 << 10;
const ALIGNMENT: usize = 4;
const SEQUENCE: u32 = 1;

// linux/pkt_sched.h
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
// linux/rtnetlink.h: struct tcmsg, and the attribute TCA_KIND
const TC_MESSAGE_BYTES: usize = 20;
const KIND: u16 = 1;

/// A hook of the clsact qdisc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterHook {
    Ingress,
    Egress,
}

/// A filter of a hook; one priority may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Of two filters, the one with the lower number runs first.
    pub(crate) priority: u16,
    pub(crate) handle: u32,
}

/// The filters at a hook of a link. None if it has no clsact qdisc.
///
/// # Errors
/// The kernel does not list them.
pub(crate) fn filters(ifindex: u32, hook: FilterHook) -> io::Result<Vec<Filter>> {
    let question = Message { ifindex, handle: 0, parent: hook.number(), info: 0 };
    let answer = exchange(libc::RTM_GETTFILTER, NLM_F_DUMP, &question.bytes())?;
    let found = answer.iter().filter_map(|bytes| Message::read(bytes));
    let found = found.map(|message| Filter { priority: (message.info >> 16) as u16, handle: message.handle });
    // Each priority has an entry of its own, whose handle is 0.
    Ok(found.filter(|filter| filter.handle != 0).collect())
}

/// Removes one filter for all protocols. Succeeds if it is not there.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn remove_filter(ifindex: u32, hook: FilterHook, filter: Filter) -> io::Result<()> {
    let all_protocols = u32::from((libc::ETH_P_ALL as u16).to_be());
    let info = u32::from(filter.priority) << 16 | all_protocols;
    let message = Message { ifindex, handle: filter.handle, parent: hook.number(), info };
    or_gone(exchange(libc::RTM_DELTFILTER, NLM_F_ACK, &message.bytes()))
}

/// Removes the clsact qdisc of a link, with all its filters. Succeeds if there is none.
///
/// # Errors
/// The kernel refuses, or the link has another qdisc there.
pub(crate) fn remove_clsact(ifindex: u32) -> io::Result<()> {
    let message = Message { ifindex, handle: CLSACT_HANDLE, parent: CLSACT, info: 0 };
    let name = b"clsact\0\0";
    let length = 4 + (name.len() - 1) as u16;
    let attribute = [&length.to_ne_bytes()[..], &KIND.to_ne_bytes(), name].concat();
    or_gone(exchange(libc::RTM_DELQDISC, NLM_F_ACK, &[message.bytes(), attribute].concat()))
}

impl FilterHook {
    fn number(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// The fields of struct tcmsg.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    ifindex: u32,
    handle: u32,
    parent: u32,
    info: u32,
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let words = [0, self.ifindex, self.handle, self.parent, self.info];
        words.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.get(..TC_MESSAGE_BYTES)?.as_chunks::<4>();
        let [_, ifindex, handle, parent, info] = words else { return None };
        let [ifindex, handle, parent, info] =
            [ifindex, handle, parent, info].map(|word| u32::from_ne_bytes(*word));
        Some(Self { ifindex, handle, parent, info })
    }
}

fn or_gone(result: io::Result<Vec<Vec<u8>>>) -> io::Result<()> {
    // Without a qdisc the answer is EINVAL, without the filter ENOENT, and without the link ENODEV.
    match result.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) | Err((Some(libc::ENOENT | libc::EINVAL | libc::ENODEV), _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

/// Sends a question. Returns the contents of the messages that the answer consists of.
fn exchange(kind: u16, flags: u16, content: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.send_to(&question(kind, flags, content), &SocketAddr::new(0, 0), 0)?;
    let (mut messages, mut datagram) = (Vec::new(), Vec::with_capacity(LARGEST_DATAGRAM));
    loop {
        datagram.clear();
        let (_, sender) = socket.recv_from(&mut datagram, 0)?;
        // Root's processes can send to this socket, too.
        if sender.port_number() == 0 && take(&datagram, &mut messages)? {
            return Ok(messages);
        }
    }
}

fn question(kind: u16, flags: u16, content: &[u8]) -> Vec<u8> {
    let length = (16 + content.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), (NLM_F_REQUEST | flags).to_ne_bytes()].concat());
    bytes.extend([SEQUENCE.to_ne_bytes(), [0; 4]].concat());
    bytes.extend(content);
    bytes
}

/// Adds the messages of a datagram; true when the answer is complete.
fn take(datagram: &[u8], messages: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let cut_off = |_| io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut off");
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(cut_off)?;
        let (kind, length) = (i32::from(message.message_type()), message.length() as usize);
        let content = rest.get(16..length).unwrap_or_default();
        let code = content.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        match kind {
            libc::NLMSG_ERROR | libc::NLMSG_DONE if code != 0 => {
                return Err(io::Error::from_raw_os_error(code.abs()));
            }
            libc::NLMSG_ERROR | libc::NLMSG_DONE => return Ok(true),
            _ => messages.push(content.to_vec()),
        }
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_message_and_an_error_is_one() {
        let message = Message { ifindex: 2, handle: 7, parent: 3, info: 9 << 16 };
        let entry = question(libc::RTM_NEWTFILTER, 0, &message.bytes());
        let done = question(libc::NLMSG_DONE as u16, 0, &[0; 4]);
        let mut messages = Vec::new();
        assert!(!take(&entry, &mut messages).unwrap());
        assert!(take(&[entry, done].concat(), &mut messages).unwrap());
        assert_eq!(
            messages.iter().map(|bytes| Message::read(bytes).unwrap()).collect::<Vec<_>>(),
            [Message { ifindex: 2, handle: 7, parent: 3, info: 9 << 16 }, message]
        );
        let error = question(libc::NLMSG_ERROR as u16, 0, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(take(&error, &mut messages).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn the_kernel_answers_that_loopback_has_no_filters() {
        assert_eq!(filters(1, FilterHook::Ingress).unwrap(), []);
    }
}
