// SPDX-License-Identifier: Apache-2.0
//! Questions over generic netlink, for whose families no crate here has types.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkBuffer, NlasIterator};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

/// The kernel answers at once; this only ends the wait for an answer that was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const LARGEST_DATAGRAM: usize = 64 << 10;

// linux/netlink.h
const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
// linux/genetlink.h
const CONTROLLER: u16 = 16;
const GENERIC_HEADER_BYTES: usize = 4;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// A socket for the questions of one family.
pub(super) struct Family {
    socket: TokioSocket,
    sequence: u32,
    id: u16,
}

impl Family {
    /// Opens the socket in the caller's network namespace. `None`: the kernel does not know the family.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn open(name: &str) -> io::Result<Option<Self>> {
        let mut family = Self { socket: TokioSocket::new(NETLINK_GENERIC)?, sequence: 0, id: CONTROLLER };
        let name = [name.as_bytes(), &[0]].concat();
        let about = match family.ask(GET_FAMILY, &attribute(FAMILY_NAME, &name)).await {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            about => about?,
        };
        family.id = number(&about, FAMILY_ID)?.ok_or(io::ErrorKind::InvalidData)? as u16;
        Ok(Some(family))
    }

    /// Sends a question with these attributes. Returns the attributes of the answer.
    ///
    /// # Errors
    /// The kernel refuses it, or does not answer.
    pub(super) async fn ask(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(command, attributes));
        asked.await.unwrap_or_else(|late| Err(late.into()))
    }

    async fn exchange(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        let question = question(self.id, self.sequence, command, attributes);
        self.socket.send_to(&question, &SocketAddr::new(0, 0)).await?;
        let mut datagram = Vec::with_capacity(LARGEST_DATAGRAM);
        loop {
            datagram.clear();
            let sender = self.socket.recv_from(&mut datagram).await?;
            // Root's processes can send to this socket, too.
            if sender.port_number() == 0
                && let Some(answer) = answer(&datagram, self.sequence)?
            {
                return Ok(answer);
            }
        }
    }
}

fn question(family: u16, sequence: u32, command: u8, attributes: &[u8]) -> Vec<u8> {
    const VERSION: u8 = 1;
    let mut bytes = vec![0; 4];
    bytes.extend([family.to_ne_bytes(), NLM_F_REQUEST.to_ne_bytes()].concat());
    bytes.extend([sequence.to_ne_bytes(), [0; 4]].concat());
    bytes.extend([command, VERSION, 0, 0]);
    bytes.extend(attributes);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// One attribute, padded to 4 bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes of the answer; `None` if the datagram answers something else.
fn answer(datagram: &[u8], sequence: u32) -> io::Result<Option<Vec<u8>>> {
    let cut_off = |_| io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut off");
    let message = NetlinkBuffer::new_checked(datagram).map_err(cut_off)?;
    if message.sequence_number() != sequence {
        return Ok(None);
    }
    let content = datagram.get(HEADER_BYTES..message.length() as usize).unwrap_or_default();
    if message.message_type() == NLMSG_ERROR {
        let code = content.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        return Err(io::Error::from_raw_os_error(code.abs()));
    }
    Ok(Some(content.get(GENERIC_HEADER_BYTES..).unwrap_or_default().to_vec()))
}

/// The values of all attributes of this kind.
pub(super) fn values(attributes: &[u8], kind: u16) -> io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if attribute.kind() == kind {
            found.push(attribute.value().to_vec());
        }
    }
    Ok(found)
}

/// The attribute as a number of 2, 4 or 8 bytes; `None` if it is not there.
pub(super) fn number(attributes: &[u8], kind: u16) -> io::Result<Option<u64>> {
    Ok(values(attributes, kind)?.first().and_then(|value| match value[..] {
        [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_family_that_the_kernel_does_not_know_is_no_error() {
        assert!(Family::open("llb_no_family").await.unwrap().is_none());
    }

    #[test]
    fn an_answer_is_told_from_others_and_from_an_error() {
        const KIND: u16 = 3;
        let mut bytes = question(30, 7, 1, &attribute(KIND, &5_u64.to_ne_bytes()));
        assert_eq!(answer(&bytes, 6).unwrap(), None);
        let attributes = answer(&bytes, 7).unwrap().unwrap();
        assert_eq!(number(&attributes, KIND).unwrap(), Some(5));
        assert_eq!(number(&attributes, KIND + 1).unwrap(), None);
        bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&(-libc::ENODEV).to_ne_bytes());
        assert_eq!(answer(&bytes, 7).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
