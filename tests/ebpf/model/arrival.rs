// SPDX-License-Identifier: Apache-2.0
//! A packet as it arrives.

use std::net::IpAddr;

use super::flows::Way;
use super::wire::{Carries, Wire};
use super::world::{MacBytes, World};

/// A packet, and what is known about its arrival.
pub(super) struct Arrival<'a> {
    pub(super) world: &'a World,
    pub(super) wire: &'a Wire,
    pub(super) link: (u32, MacBytes),
    pub(super) ports: (u16, u16),
    pub(super) tcp_flags: u8,
}

impl Arrival<'_> {
    pub(super) fn is_error(&self) -> bool {
        matches!(self.wire.carries, Carries::Error { .. })
    }

    /// Source and destination of the flow that the packet belongs to. An ICMP error about a packet counts as
    /// one in the direction that leads back to the sender of that packet.
    pub(super) fn ends(&self) -> ((IpAddr, u16), (IpAddr, u16), u8) {
        let ip = match &self.wire.carries {
            Carries::Error { inside, .. } => {
                return ((inside.destination, self.ports.1), (inside.source, self.ports.0), inside.protocol);
            }
            _ => &self.wire.ip,
        };
        ((ip.source, self.ports.0), (ip.destination, self.ports.1), ip.protocol)
    }

    pub(super) fn way(&self) -> Way {
        (self.link.0, self.wire.from)
    }
}
