// SPDX-License-Identifier: Apache-2.0
//! Asks which links take frames that XDP sends. The kernel tells this only over generic netlink (family
//! `netdev`, Linux 6.3), for which no crate here has types. Each question has a socket of its own.

use std::collections::BTreeMap;
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
// linux/netdev.h
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
const NDO_XMIT: u64 = 4;

/// Whether the drivers of these links (interface indexes) take frames that XDP sends. Links that do not exist
/// are left out.
///
/// # Errors
/// The kernel does not tell.
pub(crate) async fn takes_frames_of_xdp(links: &[u32]) -> io::Result<BTreeMap<u32, bool>> {
    let ask = async {
        let mut socket = Socket { socket: TokioSocket::new(NETLINK_GENERIC)?, sequence: 0 };
        let family = socket.ask(CONTROLLER, GET_FAMILY, FAMILY_NAME, b"netdev\0").await?;
        let family = number(&family, FAMILY_ID)?.ok_or(io::ErrorKind::NotFound)?;
        let mut takes = BTreeMap::new();
        for link in links {
            let answer = socket.ask(family as u16, DEV_GET, IFINDEX, &link.to_ne_bytes()).await;
            match answer {
                Ok(answer) => {
                    let features = number(&answer, XDP_FEATURES)?.unwrap_or(NDO_XMIT);
                    takes.insert(*link, features & NDO_XMIT != 0);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(takes)
    };
    tokio::time::timeout(ANSWER_TIMEOUT, ask).await.unwrap_or_else(|late| Err(late.into()))
}

struct Socket {
    socket: TokioSocket,
    sequence: u32,
}

impl Socket {
    /// Sends a question with one attribute. Returns the attributes of the answer.
    async fn ask(&mut self, family: u16, command: u8, attribute: u16, value: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        let question = question(family, self.sequence, command, attribute, value);
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

fn question(family: u16, sequence: u32, command: u8, attribute: u16, value: &[u8]) -> Vec<u8> {
    const VERSION: u8 = 1;
    let mut bytes = vec![0; 4];
    bytes.extend([family.to_ne_bytes(), NLM_F_REQUEST.to_ne_bytes()].concat());
    bytes.extend([sequence.to_ne_bytes(), [0; 4]].concat());
    bytes.extend([command, VERSION, 0, 0]);
    bytes.extend([(4 + value.len() as u16).to_ne_bytes(), attribute.to_ne_bytes()].concat());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
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

/// The attribute as a number of 2, 4 or 8 bytes; `None` if it is not there.
fn number(attributes: &[u8], kind: u16) -> io::Result<Option<u64>> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if attribute.kind() == kind {
            return Ok(match *attribute.value() {
                [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
                [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
                [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
                _ => None,
            });
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_tells_that_loopback_takes_no_frames() {
        const LOOPBACK: u32 = 1;
        let takes = takes_frames_of_xdp(&[LOOPBACK, u32::MAX >> 1]).await.unwrap();
        assert_eq!(takes, [(LOOPBACK, false)].into());
    }

    #[test]
    fn an_answer_is_told_from_others_and_from_an_error() {
        let mut bytes = question(30, 7, DEV_GET, XDP_FEATURES, &5_u64.to_ne_bytes());
        assert_eq!(answer(&bytes, 6).unwrap(), None);
        let attributes = answer(&bytes, 7).unwrap().unwrap();
        assert_eq!(number(&attributes, XDP_FEATURES).unwrap(), Some(5));
        assert_eq!(number(&attributes, IFINDEX).unwrap(), None);
        bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&(-libc::ENODEV).to_ne_bytes());
        assert_eq!(answer(&bytes, 7).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
