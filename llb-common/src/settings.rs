// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Settings that the agent gives the packet programs, besides frontends and backends.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac};

/// How many source addresses for mode NAT there may be.
pub const SNAT_ADDRESSES: usize = 4;

/// The settings of all links: 96 bytes, numbers in native byte order.
///
/// The ports `snat_first_port..=snat_last_port` of the `snat` addresses belong to llb. The programs take no
/// port on which a socket of the host listens or is connected to the same backend, but they can't see sockets
/// that are opened later. So the range must be reserved (`net.ipv4.ip_local_reserved_ports`), or nothing else
/// may use these addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// Source addresses that backends see in mode NAT. Unused ones are zeros.
    pub snat: [Address; SNAT_ADDRESSES],
    /// The client whose packets are traced. Zeros: none.
    pub trace_client: Address,
    /// Lowest source port that backends see. Not 0.
    pub snat_first_port: u16,
    /// Highest source port that backends see.
    pub snat_last_port: u16,
    /// New flows that each CPU may remember in a [`Tick`](crate::time::Tick).
    pub flow_budget: u32,
    /// Thins out the trace: a packet is shown if a random number has none of these bits. 0 shows all packets,
    /// 1 one in two, 3 one in four.
    pub trace_mask: u32,
    /// Zeros.
    pub padding: u32,
}

const _: () = assert!(size_of::<Settings>() == 96);

/// The default [`Settings::flow_budget`]. With it, a flood of small packets at 1 Gbit/s (1.5 million packets
/// per second) costs one CPU a few percent of its time for entries, and there is still room for twice as many
/// new connections as the CPU can serve.
pub const FLOW_BUDGET: u32 = 50_000;

/// The link that a program is attached to: 12 bytes. Each link has a map of its own for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LinkSettings {
    /// Index of the link, native byte order. 0 switches the program off: every packet passes.
    pub ifindex: u32,
    /// MAC address of the link. Packets to other addresses pass.
    pub mac: Mac,
    /// 1: there is a [`Settings::trace_client`]. It is here because the programs read it for each packet, as
    /// they do the other fields of this type.
    pub traces: u8,
    /// 1: clients are answered by the routes of this machine. 0: they are answered where their last packet came from.
    pub returns_by_routes: u8,
}

const _: () = assert!(size_of::<LinkSettings>() == 12);
