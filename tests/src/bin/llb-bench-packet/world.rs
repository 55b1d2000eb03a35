//! The maps of a box with a million flows of each mode. How these are told
//! apart is in [`Flow`]; their packets are in `feed.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::bytes_of;
use llb_common::address::{Address, Mac, Port};
use llb_common::backend::BackendId;
use llb_common::conntrack::{ACK, ForwardEntry, ForwardKey, ReplyEntry, ReplyKey, SYN, step, way};
use llb_common::frontend::TCP;
use llb_common::maps;

use crate::plane::{
    BACKEND_PORT, CLIENT_MAC, DSR_PORT, Family, Hook, LINK, NAT_PORT, Plane, raw,
};

/// Flows of each mode.
pub(crate) const FLOWS: u32 = 1_000_000;

/// So many that each has less flows than there are ports.
const BACKENDS: u32 = 20;

/// Which direction of which mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Dsr,
    NatForward,
    NatReply,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Dsr, Self::NatForward, Self::NatReply];
}

/// The programs and their maps, full.
pub(crate) fn make(hook: Hook, family: Family) -> Plane {
    // One million of each mode, and a table that is not full.
    let mut plane = Plane::with_flows(hook, family, 2 * FLOWS + 1000);
    for mode in [Mode::Dsr, Mode::NatForward] {
        for number in 0..BACKENDS {
            let id = backend(mode, number);
            let address = backend_address(family, number);
            plane.backend(id.index(), |entry| {
                entry.address = address;
                entry.vip_port = Port::new(port(mode));
            });
        }
    }
    let seen = step(step(0, SYN), ACK);
    for n in 0..FLOWS {
        let (flow, client) = (Flow(n), client(family, n));
        for mode in [Mode::Dsr, Mode::NatForward] {
            let key = ForwardKey {
                client,
                frontend: u32::from(port(mode)) << 8 | u32::from(TCP),
                client_port: flow.port(),
                padding: 0,
            };
            let entry = ForwardEntry {
                backend: backend(mode, n % BACKENDS),
                snat_port: if mode == Mode::Dsr { Port::default() } else { flow.port() },
                seen,
                way: way(LINK, Mac::new(CLIENT_MAC)),
                ..ForwardEntry::default()
            };
            plane.insert(maps::FLOWS.name, raw::<24>(bytes_of(&key)), raw::<16>(bytes_of(&entry)));
        }
        let key = ReplyKey {
            backend: backend_address(family, n % BACKENDS),
            backend_port: Port::new(BACKEND_PORT),
            snat_port: flow.port(),
            protocol: TCP,
            padding: [0; 3],
        };
        let entry = ReplyEntry {
            client,
            backend: backend(Mode::NatForward, n % BACKENDS),
            ifindex: LINK,
            mac: Mac::new(CLIENT_MAC),
            client_port: flow.port(),
            seen,
            ..ReplyEntry::default()
        };
        plane.insert(maps::REPLIES.name, raw::<24>(bytes_of(&key)), raw::<40>(bytes_of(&entry)));
    }
    plane
}

pub(crate) fn port(mode: Mode) -> u16 {
    if mode == Mode::Dsr { DSR_PORT } else { NAT_PORT }
}

fn backend(mode: Mode, number: u32) -> BackendId {
    let first = if mode == Mode::Dsr { 100 } else { 200 };
    BackendId::new(first + number, 1)
}

/// The `n`-th flow: each its own client; one in [`BACKENDS`] goes to the same
/// backend, from another port. Client and source port are the same.
#[derive(Clone, Copy)]
pub(crate) struct Flow(u32);

impl Flow {
    /// In an order in which neighbours in time are none in memory.
    pub(crate) fn in_turn(turn: u32) -> Self {
        // A prime, so that in a million turns each flow has one.
        const STEP: u64 = 617_363;
        Self((u64::from(turn) * STEP % u64::from(FLOWS)) as u32)
    }

    /// The last four of its client's address.
    pub(crate) fn client_bytes(self) -> [u8; 4] {
        (10 << 24 | self.0).to_be_bytes()
    }

    /// The last four of its backend's address.
    pub(crate) fn backend_bytes(self) -> [u8; 4] {
        backend_bytes(self.0 % BACKENDS)
    }

    pub(crate) fn port(self) -> Port {
        Port::new(1024 + (self.0 / BACKENDS) as u16)
    }
}

fn backend_bytes(number: u32) -> [u8; 4] {
    [198, 51, 100, number as u8]
}

pub(crate) fn client(family: Family, n: u32) -> Address {
    address(family, Flow(n).client_bytes())
}

pub(crate) fn backend_address(family: Family, number: u32) -> Address {
    address(family, backend_bytes(number))
}

/// Those bytes, or an address that ends with them.
fn address(family: Family, bytes: [u8; 4]) -> Address {
    Address::from(match family {
        Family::V4 => IpAddr::from(Ipv4Addr::from(bytes)),
        Family::V6 => {
            let [a, b, c, d] = bytes;
            let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, high, low))
        }
    })
}
