// SPDX-License-Identifier: Apache-2.0
//! One change of the packet plane's maps, as data.

use llb_common::address::{Address, Port};
use llb_common::backend::{BackendEntry, BackendId};
use llb_common::frontend::{Chunk, FrontendEntry, FrontendKey, MemberKey, SourceRangeKey, TCP, UDP};

use crate::model::{Frontend, Protocol};

/// One change of the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Write {
    /// The place of a backend begins to count anew.
    ResetTraffic(BackendId),
    /// A backend, at the index of its id.
    Backend(BackendEntry),
    /// A part of a Maglev table.
    Chunk(u32, Box<Chunk>),
    /// Which backend a host has for a frontend.
    Member(MemberKey, BackendId),
    /// Clients that may come (1), or of those that may not (0).
    SourceRange(SourceRangeKey, u8),
    /// From here on packets see all of the above.
    Frontend(FrontendKey, FrontendEntry),
    /// Packets to it are the kernel's again.
    RemoveFrontend(FrontendKey),
    /// See [`Write::Member`].
    RemoveMember(MemberKey),
    /// See [`Write::SourceRange`].
    RemoveSourceRange(SourceRangeKey),
}

/// The key of a frontend in the map.
pub(in super::super) fn key_of(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(Address::from(frontend.vip), Port::new(frontend.port.get()), number(frontend.protocol))
}

/// As IANA has it.
pub(in super::super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}
