// SPDX-License-Identifier: Apache-2.0
//! What becomes of a known flow with each packet that may end it, and what answers an opening.

use super::arrival::Arrival;
use super::ends::{ACK, DATA, FIN, RESET_BY_OTHER, RST, SYN, distance, has, opens, seen_after};
use super::flows::{Flow, FlowName, Reply, ReplyName};
use super::state::Model;
use super::wire::{Carries, TCP};
use super::world::Backend;

impl Arrival<'_> {
    /// Where the client's stream is after this packet, and where it says that the backend's is.
    pub(super) fn streams(&self) -> (u32, u32) {
        let Carries::Transport { seq, ack, .. } = self.wire.carries else { return (0, 0) };
        let end = if has(self.tcp_flags, FIN) { self.wire.ip.length as u32 } else { 0 };
        (seq.wrapping_add(end), if has(self.tcp_flags, ACK) { ack } else { 0 })
    }
}

impl Model {
    /// Takes a packet of the client into account.
    pub(super) fn client_lives(
        &mut self,
        arrival: &Arrival<'_>,
        name: &FlowName,
        flow: &mut Flow,
        backend: &Backend,
    ) {
        let Carries::Transport { seq, .. } = arrival.wire.carries else { return };
        let distance = distance(flow.seq, seq);
        flow.seen = seen_after(flow.seen, arrival.tcp_flags, distance);
        let begins = opens(name.2.2, arrival.tcp_flags) && flow.seen == SYN;
        let is_closed = has(flow.seen, FIN) && !has(arrival.tcp_flags, FIN);
        if begins || distance.is_some() && !is_closed && has(arrival.tcp_flags, ACK) {
            (flow.seq, flow.ack) = arrival.streams();
        }
        if has(arrival.tcp_flags, RST)
            && distance.is_some()
            && !flow.is_dsr()
            && let Some(reply) = self.memory.reply_of(name, backend, flow.snat_port)
            && has(reply.seen, DATA)
        {
            reply.seen |= RESET_BY_OTHER;
        }
    }

    /// Takes a packet of the backend into account.
    pub(super) fn backend_lives(
        &mut self,
        arrival: &Arrival<'_>,
        name: &ReplyName,
        reply: &mut Reply,
        backend: &Backend,
    ) {
        let Carries::Transport { seq, .. } = arrival.wire.carries else { return };
        let mut near = Some(0);
        if has(reply.seen | arrival.tcp_flags, FIN | RST | RESET_BY_OTHER) {
            let flow_name = (reply.client.0, reply.client.1, backend.frontend);
            let is_its = |flow: &&mut Flow| flow.backend == backend.id && flow.snat_port == name.2;
            let flow = self.memory.flow(&flow_name).filter(is_its);
            near = flow.as_ref().and_then(|flow| distance(flow.ack, seq)).map(|_| 0);
            if let Some(flow) = flow
                && near.is_some()
                && has(arrival.tcp_flags, RST)
                && has(flow.seen, DATA)
            {
                flow.seen |= RESET_BY_OTHER;
            }
        }
        reply.seen = seen_after(reply.seen, arrival.tcp_flags, near);
    }

    /// Whether a refusal of a new connection was sent by somebody who does not know its SYN.
    pub(super) fn is_false_refusal(
        &self,
        arrival: &Arrival<'_>,
        name: &ReplyName,
        reply: &Reply,
        backend: &Backend,
    ) -> bool {
        let flow_name = (reply.client.0, reply.client.1, backend.frontend);
        let Some(flow) = self.memory.pending_flows.get(&flow_name) else { return false };
        if name.3 != TCP || flow.seen != SYN || flow.backend != backend.id || flow.snat_port != name.2 {
            return false;
        }
        match arrival.wire.carries {
            Carries::Transport { .. } => {
                let is_of_syn = (1..=65_536).contains(&arrival.streams().1.wrapping_sub(flow.seq));
                has(arrival.tcp_flags, RST) && !is_of_syn
            }
            Carries::Error { is_unreachable, seq, .. } => is_unreachable && seq != flow.seq,
            Carries::LaterPart => false,
        }
    }
}
