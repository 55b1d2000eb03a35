// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The types that the steps of one packet share: what is decided about it, and why it is not forwarded. The
//! order of the steps is in `decide.rs`.

use llb_common::address::{Address, Mac, WirePort};
use llb_common::backend::BackendId;
use llb_common::conntrack::{ForwardEntry, ForwardKey, ReplyEntry, ReplyKey};
use llb_common::parse::Packet;
use llb_common::reason::Reason;
use llb_common::time::Tick;

use crate::clock::Clock;

/// Working memory of one run of a program, in the per-CPU map `SCRATCH`.
///
/// It is too large for the stack. It also keeps the verifier's work small: the verifier tracks each value on
/// the stack, but not the contents of a map, so it need not follow every kind of packet on a path of its own.
#[repr(C)]
pub(crate) struct Scratch {
    /// The packet as it came.
    pub(crate) packet: Packet,
    /// What is decided about it.
    pub(crate) decision: Decision,
    /// The time on this CPU; kept from packet to packet.
    pub(crate) clock: Clock,
}

/// Where a packet goes, and what is written into it.
#[repr(C)]
pub(crate) struct Decision {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) backend: BackendId,
    /// The link that the packet is sent by.
    pub(crate) ifindex: u32,
    pub(crate) source_port: WirePort,
    pub(crate) destination_port: WirePort,
    pub(crate) destination_mac: Mac,
    pub(crate) source_mac: Mac,
    /// 1: mode NAT, all fields above are written. 0: mode DSR, only the MAC addresses are.
    pub(crate) is_nat: u32,
    /// Input of `begin.rs`: a Node sent the first packet of a flow in mode DSR back, so the flow begins in mode NAT. 1: yes.
    pub(crate) nat_instead: u32,
    /// The time at which the packet came.
    pub(crate) now: Tick,
    /// Input of `select.rs`: the flow that needs a backend.
    pub(crate) flow: UnassignedFlow,
    /// Of `ports.rs`.
    pub(crate) search: PortSearch,
    /// Input of `begin.rs`: the entry of a flow that must begin anew; without a backend if there is none.
    pub(crate) left: ForwardEntry,
}

/// A flow that needs a backend.
#[repr(C)]
pub(crate) struct UnassignedFlow {
    pub(crate) client: Address,
    pub(crate) vip: Address,
    pub(crate) client_port: WirePort,
    pub(crate) vip_port: WirePort,
    pub(crate) protocol: u32,
    /// 1: the packet begins its flow. 0: it belongs to a flow that began earlier, but has no entry here.
    pub(crate) begins: u32,
    /// A backend that the flow must not get; 0: none.
    pub(crate) excluded: BackendId,
    /// Which backends are chosen only if no other is found: none (0), [`AVOIDS_FAILING`], [`AVOIDS_REFUSING`] or
    /// [`AVOIDS_SUSPECTED`]. Completed by `select.rs`.
    pub(crate) avoids: u32,
}

/// [`UnassignedFlow::avoids`]: dead backends, and those that refuse connection after connection.
pub(crate) const AVOIDS_FAILING: u32 = 1;
/// [`UnassignedFlow::avoids`]: also those that refused the last connection. If there are no others, the next
/// refusal is told to the client.
pub(crate) const AVOIDS_REFUSING: u32 = 2;
/// [`UnassignedFlow::avoids`]: also those that did not answer one and have answered none since. This is for a
/// flow that moves.
pub(crate) const AVOIDS_SUSPECTED: u32 = 3;

impl UnassignedFlow {
    /// A flow that begins, from `client` to `vip`.
    #[inline(always)]
    pub(crate) fn new(client: (&Address, WirePort), vip: (&Address, WirePort), protocol: u8) -> Self {
        Self {
            client: client.0.copied(),
            vip: vip.0.copied(),
            client_port: client.1,
            vip_port: vip.1,
            protocol: u32::from(protocol),
            begins: 1,
            excluded: BackendId(0),
            avoids: 0,
        }
    }

    /// The flow of a client's packet, as one that begins.
    #[inline(always)]
    pub(crate) fn of(packet: &Packet) -> Self {
        let client = (&packet.source, packet.source_port);
        Self::new(client, (&packet.destination, packet.destination_port), packet.protocol)
    }
}

/// The search for a source port.
#[repr(C)]
pub(crate) struct PortSearch {
    /// The reply entry that the new flow gets.
    pub(crate) entry: ReplyEntry,
    /// Its key. It has the port that is tried.
    pub(crate) key: ReplyKey,
    /// The flow that has this port.
    pub(crate) holder: ForwardKey,
    pub(crate) now: Tick,
    /// 1: the port of a flow that gives way at last will do, too.
    pub(crate) is_last_resort: u32,
    /// 1: [`Decision::left`] is from `FLOWS`, of the last flow of this client and port.
    pub(crate) has_former: u32,
    /// One bit for each port that was tried, the last one lowest: the flow that has the port may give way.
    pub(crate) may_give_way: u32,
}

/// Why a packet is not rewritten.
pub(crate) enum Stop {
    /// It belongs to no flow and no frontend of ours: it passes, and nothing is counted.
    NotOurs,
    /// It is ours but is not forwarded. The reason says whether it passes or is dropped, and is counted.
    Because(Reason),
}

impl From<Reason> for Stop {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::Because(reason)
    }
}
