// SPDX-License-Identifier: Apache-2.0
//! One change of the packet plane's maps, as data.

use llb_common::address::{Address, WirePort};
use llb_common::backend::{BackendEntry, BackendId};
use llb_common::frontend::{Chunk, FrontendEntry, FrontendKey, MemberKey, SourceRangeKey, TCP, UDP};

use crate::model::{Frontend, Protocol};

/// One change of the maps. Each may be repeated: it sets or removes one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Write {
    /// Sets a backend's counters to zero.
    ResetTraffic(BackendId),
    /// Sets a backend, at the index of its id.
    Backend(BackendEntry),
    /// Sets a chunk of a selection table.
    Chunk(u32, Box<Chunk>),
    /// Sets which backend of a frontend is on a host.
    Member(MemberKey, BackendId),
    /// Sets whether clients of a range may use a Service: 1 if they may, else 0.
    SourceRange(SourceRangeKey, u8),
    /// Notes that an address is a VIP: no packet of another host comes from it.
    Vip(Address),
    /// Sets a frontend. From here on, packets see all that was written before.
    Frontend(FrontendKey, FrontendEntry),
    /// Removes a frontend. From here on, packets to it go to the kernel.
    RemoveFrontend(FrontendKey),
    /// Undoes [`Write::Vip`].
    RemoveVip(Address),
    /// Undoes [`Write::Member`].
    RemoveMember(MemberKey),
    /// Undoes [`Write::SourceRange`].
    RemoveSourceRange(SourceRangeKey),
}

impl Write {
    /// Marks a backend's place as free. The id stays in the map, so that flows of this
    /// backend do not take a later one at the same index for it.
    pub(super) fn free_backend(id: BackendId) -> Self {
        Self::Backend(BackendEntry { id, ..BackendEntry::default() })
    }
}

/// The key of a frontend in the map.
pub(in super::super) fn key_of(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(
        Address::from(frontend.vip),
        WirePort::new(frontend.port.get()),
        number(frontend.protocol),
    )
}

/// A protocol's number, as IANA assigns it.
pub(in super::super) const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}
