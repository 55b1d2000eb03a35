// SPDX-License-Identifier: Apache-2.0
//! What the model remembers: every map of the programs that packets change,
//! as a plain map without limits, but for the two that may be full (`placed.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::placed::Placed;
use super::wire::TCP;
use super::world::{Backend, FrontendName, Id, MacBytes, World};

/// Client, its port, and the frontend.
pub(crate) type FlowName = (IpAddr, u16, FrontendName);
/// Backend, its port, the source port that it sees, protocol.
pub(crate) type ReplyName = (IpAddr, u16, u16, u8);
/// Source, destination, identification, protocol.
pub(crate) type FragmentName = (IpAddr, IpAddr, u32, u8);
/// The link that a client's packets come by, and who they come from.
pub(crate) type Way = (u32, MacBytes);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) backend: Id,
    pub(crate) snat_port: u16,
    pub(crate) seen: u8,
    pub(crate) way: Way,
    /// When the last packet came.
    pub(crate) used: u64,
}

/// How long a client may take for the second packet of a flow if its source
/// port is needed.
pub(crate) const OPENING_SECS: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) client: (IpAddr, u16),
    pub(crate) backend: Id,
    pub(crate) seen: u8,
    pub(crate) way: Way,
    /// When it was made.
    pub(crate) began: u64,
}

/// Of a backend: packets and bytes to it, from it, and flows.
pub(crate) type Counts = [u64; 5];

#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) flows: Placed<FlowName, Flow>,
    pub(crate) pending_flows: BTreeMap<FlowName, Flow>,
    pub(crate) replies: Placed<ReplyName, Reply>,
    pub(crate) pending_replies: BTreeMap<ReplyName, Reply>,
    pub(crate) fragments: BTreeMap<FragmentName, (u16, u16)>,
    /// By client and Service: the host, and when the last flow began.
    pub(crate) affinity: BTreeMap<(IpAddr, u32), (u32, u64)>,
    /// Backends that refused or did not answer, and when one did last.
    pub(crate) failing: BTreeMap<Id, u64>,
    pub(crate) traffic: BTreeMap<u32, Counts>,
}

impl Memory {
    /// With tables that are empty.
    pub(crate) fn new(flows: Placed<FlowName, Flow>, replies: Placed<ReplyName, Reply>) -> Self {
        Self {
            flows,
            pending_flows: BTreeMap::new(),
            replies,
            pending_replies: BTreeMap::new(),
            fragments: BTreeMap::new(),
            affinity: BTreeMap::new(),
            failing: BTreeMap::new(),
            traffic: BTreeMap::new(),
        }
    }

    pub(crate) fn flow(&mut self, name: &FlowName) -> Option<&mut Flow> {
        self.flows.get_mut(name).or_else(|| self.pending_flows.get_mut(name))
    }

    pub(crate) fn reply(&mut self, name: &ReplyName) -> Option<&mut Reply> {
        self.replies.get_mut(name).or_else(|| self.pending_replies.get_mut(name))
    }

    /// The reply entry of a flow, if it is that flow's and no other's.
    pub(crate) fn reply_of(&mut self, flow: &FlowName, backend: &Backend, port: u16) -> Option<&mut Reply> {
        let reply = self.reply(&reply_name(backend, port))?;
        (reply.client == (flow.0, flow.1) && reply.backend == backend.id).then_some(reply)
    }

    /// Forgets both entries of the flow that has a source port, if nothing is
    /// to come of it: its backend is no more, or time has ended it, which is so only
    /// of a pending one; or, if those are meant, both ends have ended, or one has reset.
    pub(crate) fn end(&mut self, world: &World, name: &ReplyName, now: u64, ended_too: bool) -> bool {
        let Some(reply) = self.reply(name).copied() else { return false };
        if let Some(backend) = world.backend(reply.backend) {
            let flow_name = (reply.client.0, reply.client.1, backend.frontend);
            let is_its = |flow: &Flow| flow.backend == reply.backend && flow.snat_port == name.2;
            let flow = self.flow(&flow_name).copied().filter(is_its);
            let seen = flow.map_or(0, |flow| flow.seen);
            let has_ended = (seen | reply.seen) & RST != 0 || seen & reply.seen & FIN != 0;
            let has_ended = ended_too && name.3 == TCP && has_ended;
            let is_abandoned = self.pending_replies.contains_key(name)
                && !self.flows.contains_key(&flow_name)
                && match flow {
                    Some(flow) => (name.3 != TCP || seen == SYN) && now - flow.used >= OPENING_SECS,
                    None => reply.began < now,
                };
            if !has_ended && !is_abandoned {
                return false;
            }
            if flow.is_some() {
                self.flows.remove(&flow_name);
                self.pending_flows.remove(&flow_name);
            }
        }
        self.replies.remove(name);
        self.pending_replies.remove(name);
        true
    }

    pub(crate) fn count(&mut self, backend: Id, is_reply: bool, bytes: usize) {
        let counts = self.traffic.entry(backend.0).or_default();
        let first = if is_reply { 2 } else { 0 };
        counts[first] += 1;
        counts[first + 1] += bytes as u64;
    }
}

pub(crate) fn reply_name(backend: &Backend, snat_port: u16) -> ReplyName {
    (backend.address, backend.port, snat_port, backend.frontend.2)
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;
/// Anything but those that begin and end.
const DATA: u8 = 16;

/// Only a SYN alone begins a connection; which of UDP's packets does, nobody knows.
pub(crate) fn opens(protocol: u8, tcp_flags: u8) -> bool {
    protocol == TCP && tcp_flags & (SYN | ACK | RST | FIN) == SYN
}

/// What was seen in a direction, after one more packet of it: a connection
/// that has ended begins anew with a SYN.
pub(crate) fn seen_after(seen: u8, tcp_flags: u8) -> u8 {
    let (is_open, ends) = (tcp_flags & SYN != 0, tcp_flags & (FIN | RST));
    match (is_open, ends) {
        (true, _) if seen & (FIN | RST) != 0 => SYN | ends,
        (true, _) => seen | SYN | ends,
        (false, 0) => seen | DATA,
        (false, _) => seen | ends,
    }
}
