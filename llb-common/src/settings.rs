// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the agent tells the packet programs besides frontends and backends.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac};

/// Addresses that replies may come to.
pub const SNAT_ADDRESSES: usize = 4;

/// One for all links: 96 bytes.
///
/// The ports `snat_first_port..=snat_last_port` at the `snat` addresses are
/// llb's: the programs take no port on which a socket of the host listens or
/// is connected to that backend, but they can't see sockets that come later.
/// So the range must be reserved (`net.ipv4.ip_local_reserved_ports`), or the
/// addresses must be nobody else's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// Sources that backends see in mode NAT; unused places are zeros.
    pub snat: [Address; SNAT_ADDRESSES],
    /// The client whose packets are traced; zeros: nobody's.
    pub trace_client: Address,
    /// Lowest source port that backends see; not 0.
    pub snat_first_port: u16,
    /// Highest source port that backends see.
    pub snat_last_port: u16,
    /// New flows that each CPU may remember in a [`Tick`](crate::time::Tick).
    pub flow_budget: u32,
    /// A traced packet is shown if a random number has none of these bits: 0
    /// shows all, 1 every second, 3 every fourth.
    pub trace_mask: u32,
    /// Zeros.
    pub padding: u32,
}

const _: () = assert!(size_of::<Settings>() == 96);

/// The usual [`Settings::flow_budget`]: an attack of small packets at 1 Gbit/s
/// (1.5 million in a second) costs one CPU a few percent of its time for
/// entries, and twice as many new connections as it can serve still fit.
pub const FLOW_BUDGET: u32 = 50_000;

/// The link that an object is attached to; each link has a map of its own. 12 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LinkSettings {
    /// 0 switches the object off: every packet passes.
    pub ifindex: u32,
    /// Only packets to this address are looked at.
    pub mac: Mac,
    /// 1: there is a [`Settings::trace_client`]. Here, because it is looked at
    /// for every packet, as the rest of this is.
    pub traces: u16,
}

const _: () = assert!(size_of::<LinkSettings>() == 12);
