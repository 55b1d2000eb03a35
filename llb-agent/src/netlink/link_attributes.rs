// SPDX-License-Identifier: Apache-2.0
//! The attributes of a link that llb reads. Pure: bytes in, bytes out.
//!
//! The kernel describes a link by dozens of attributes, and new kernels and
//! drivers add more. One that the decoder does not understand must not make the
//! list of all links unreadable, so the decoder only sees those that are used.

use std::borrow::Cow;

use rtnetlink::packet_core::{NetlinkBuffer, NlasIterator};

/// Removes all other attributes if `message` describes a link; returns any
/// other message unchanged.
pub(super) fn only_used(message: &[u8]) -> Cow<'_, [u8]> {
    const RTM_NEWLINK: u16 = 16;
    const ATTRIBUTES: usize = 16 + 16; // After struct nlmsghdr and struct ifinfomsg.
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINK: u16 = 5;
    const IFLA_MASTER: u16 = 10;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_IFALIAS: u16 = 20;
    const IFLA_XDP: u16 = 43;
    const IFLA_INFO_KIND: u16 = 1;

    if NetlinkBuffer::new(message).message_type() != RTM_NEWLINK || message.len() < ATTRIBUTES {
        return Cow::Borrowed(message);
    }
    let mut reduced = message[..ATTRIBUTES].to_vec();
    for attribute in NlasIterator::new(&message[ATTRIBUTES..]) {
        // A malformed attribute: the decoder says what is wrong.
        let Ok(attribute) = attribute else { return Cow::Borrowed(message) };
        match attribute.kind() {
            IFLA_ADDRESS | IFLA_IFNAME | IFLA_MTU | IFLA_LINK | IFLA_MASTER | IFLA_XDP => {
                push_attribute(&mut reduced, attribute.kind(), attribute.value());
            }
            // The decoder takes only UTF-8, and anybody may have written it.
            IFLA_IFALIAS if str::from_utf8(attribute.value()).is_ok() => {
                push_attribute(&mut reduced, IFLA_IFALIAS, attribute.value());
            }
            IFLA_LINKINFO => {
                let infos = NlasIterator::new(attribute.value()).flatten();
                let mut kind = Vec::new();
                for info in infos.filter(|info| info.kind() == IFLA_INFO_KIND) {
                    push_attribute(&mut kind, IFLA_INFO_KIND, info.value());
                }
                push_attribute(&mut reduced, IFLA_LINKINFO, &kind);
            }
            _ => {}
        }
    }
    let length = reduced.len() as u32;
    reduced[..4].copy_from_slice(&length.to_ne_bytes());
    Cow::Owned(reduced)
}

/// Layout: `struct nlattr`, padded to 4 bytes.
fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    message.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}
