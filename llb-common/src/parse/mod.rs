// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! From the bytes of a frame to the flow that it belongs to. Nothing is decided here: whether the flow is one
//! of ours is found out later.
//!
//! IPv4 and IPv6 give the same [`Packet`]. An ICMP error gives the flow that it is *about*, with source and
//! destination swapped: it is about a packet that one end sent, so it travels with the packets of the other
//! end.
//!
//! ```text
//!   frame --Ethernet--> l3 --IP--> l4 --TCP, UDP--> Shape::Transport
//!       0-2 VLAN tags without id   |---later part of a fragmented packet--> Shape::LaterFragment
//!                                  `---ICMP error--> inner l3 --IP--> inner l4 --> Shape::Error
//! ```

mod frame;
mod icmp;
mod ip;
mod packet;
mod read;

#[cfg(test)]
mod tests;

pub use frame::Frame;
pub use packet::{Packet, Shape, Unparsed};
pub use read::{parse, parse_plain};
