// SPDX-License-Identifier: Apache-2.0
//! What the model remembers: each map that packets change, as a plain map without limits, except for the two
//! tables that may be full (`placed.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::ends::{SYN, has_ended, may_have_ended};
use super::placed::Placed;
use super::wire::TCP;
use super::world::{Backend, FrontendName, Id, MacBytes, World};

/// Client, client port and frontend.
pub(crate) type FlowName = (IpAddr, u16, FrontendName);
/// Backend, backend port, the source port that the backend sees, and protocol.
pub(crate) type ReplyName = (IpAddr, u16, u16, u8);
/// Source, destination, identification and protocol.
pub(crate) type FragmentName = (IpAddr, IpAddr, u32, u8);
/// The link by which a client's packets arrive, and the MAC from which they come.
pub(crate) type Way = (u32, MacBytes);

/// What is known of a packet in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// The first one was forwarded, with these ports.
    Ports(u16, u16),
    /// The first one was not forwarded.
    NotForwarded,
    /// Others came before the first one.
    Early,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) backend: Id,
    pub(crate) snat_port: u16,
    pub(crate) seen: u8,
    /// The way by which the client's packets come.
    pub(crate) way: Way,
    /// The way of the replies was asked from the routes.
    pub(crate) is_routed: bool,
    /// Time of its last packet.
    pub(crate) used: u64,
    /// Where the client's stream is.
    pub(crate) seq: u32,
    /// Where the backend's stream is, as the client has said.
    pub(crate) ack: u32,
}

impl Flow {
    /// Mode DSR, in which backends see the client's own port.
    pub(crate) fn is_dsr(&self) -> bool {
        self.snat_port == 0
    }
}

/// Seconds without a packet after which a flow may lose its source port to another one: a new connection that the
/// backend has not answered, or whose client has not continued, or an answered UDP question; a UDP question
/// without an answer; other UDP flows.
pub(crate) const OPENING_SECS: u64 = 2;
pub(crate) const QUESTION_SECS: u64 = 6;
pub(crate) const CONVERSATION_SECS: u64 = 120;
/// Seconds without a packet after which a connection that may have ended has ended.
pub(crate) const CLOSED_SECS: u64 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) client: (IpAddr, u16),
    pub(crate) backend: Id,
    pub(crate) seen: u8,
    /// The backend refused it, and the client was not told.
    pub(crate) is_refused: bool,
    pub(crate) way: Way,
    /// Time of the backend's last packet, or of its creation.
    pub(crate) used: u64,
}

/// What was found of a backend that has answered nothing since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It did not answer a connection.
    Unanswered,
    /// It refused one.
    Refused,
    /// It refused two and answered none in between.
    RefusedAgain,
    /// It did not answer the agent.
    Dead,
}

/// Counts of a backend: packets and bytes to it, packets and bytes from it, and flows.
pub(crate) type Counts = [u64; 5];

#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) flows: Placed<FlowName, Flow>,
    pub(crate) pending_flows: BTreeMap<FlowName, Flow>,
    pub(crate) replies: Placed<ReplyName, Reply>,
    pub(crate) pending_replies: BTreeMap<ReplyName, Reply>,
    pub(crate) fragments: BTreeMap<FragmentName, Parts>,
    /// By client and Service: the host, and the time at which its last flow began.
    pub(crate) affinity: BTreeMap<(IpAddr, u32), (u32, u64)>,
    /// Backends that failed, with the time that counts.
    pub(crate) failing: BTreeMap<Id, (Finding, u64)>,
    pub(crate) traffic: BTreeMap<u32, Counts>,
}

impl Memory {
    /// A memory with these tables, which are empty.
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

    /// The reply entry of a flow, unless it belongs to another flow.
    pub(crate) fn reply_of(&mut self, flow: &FlowName, backend: &Backend, port: u16) -> Option<&mut Reply> {
        let reply = self.reply(&reply_name(backend, port))?;
        (reply.client == (flow.0, flow.1) && reply.backend == backend.id).then_some(reply)
    }

    /// Removes both entries of the flow that holds a source port, if the flow gives way to another one: nothing
    /// can come of it any more, or it has waited for long enough. As the last resort, more flows give way.
    pub(crate) fn end(&mut self, world: &World, name: &ReplyName, now: u64, is_last: bool) -> bool {
        let Some(reply) = self.reply(name).copied() else { return false };
        if let Some(backend) = world.backend(reply.backend) {
            let flow_name = (reply.client.0, reply.client.1, backend.frontend);
            let is_its = |flow: &Flow| flow.backend == reply.backend && flow.snat_port == name.2;
            let flow = self.flow(&flow_name).copied().filter(is_its);
            let is_reply_pending = self.pending_replies.contains_key(name);
            let gives_way = match flow {
                Some(flow) => {
                    let is_pending = is_reply_pending && !self.flows.contains_key(&flow_name);
                    gives_way(name.3 == TCP, is_pending, &flow, &reply, now, is_last)
                }
                None => {
                    let has_ended = name.3 == TCP && has_ended(0, reply.seen);
                    is_reply_pending && reply.used < now || is_last && has_ended
                }
            };
            if !gives_way {
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

    /// The flow `name` goes to another backend, or by another source port, than `old`, its entry until now.
    pub(crate) fn leave(&mut self, world: &World, name: &FlowName, old: &Flow) {
        let Some(backend) = world.backend(old.backend) else { return };
        if self.reply_of(name, backend, old.snat_port).is_some() {
            self.replies.remove(&reply_name(backend, old.snat_port));
            self.pending_replies.remove(&reply_name(backend, old.snat_port));
        }
    }

    pub(crate) fn count(&mut self, backend: Id, is_reply: bool, bytes: usize) {
        let counts = self.traffic.entry(backend.0).or_default();
        let first = if is_reply { 2 } else { 0 };
        counts[first] += 1;
        counts[first + 1] += bytes as u64;
    }
}

/// Whether a flow gives its source port to another one.
fn gives_way(is_tcp: bool, is_pending: bool, flow: &Flow, reply: &Reply, now: u64, is_last: bool) -> bool {
    let silent = now - flow.used.max(reply.used);
    if is_tcp {
        let is_open = reply.seen == 0 || flow.seen == SYN;
        let has_ended =
            has_ended(flow.seen, reply.seen) || silent > CLOSED_SECS && may_have_ended(flow.seen, reply.seen);
        return is_pending && is_open && now - flow.used >= OPENING_SECS || is_last && has_ended;
    }
    match (is_pending, reply.seen) {
        (true, 0) => is_last && silent >= QUESTION_SECS,
        (true, _) => silent >= OPENING_SECS,
        (false, _) => is_last && silent >= CONVERSATION_SECS,
    }
}

pub(crate) fn reply_name(backend: &Backend, snat_port: u16) -> ReplyName {
    (backend.address, backend.port, snat_port, backend.frontend.2)
}
