// SPDX-License-Identifier: Apache-2.0
//! A client's packet to a frontend: it belongs to a known flow, or begins one.

use llb_common::reason::Reason;

use super::arrival::Arrival;
use super::ends::{self, FIN, RST, opens, seen_after};
use super::failing::Move;
use super::flows::{Flow, FlowName, Reply, ReplyName, Way, reply_name};
use super::outcome::{Course, Stop};
use super::rewrite::{DSR_TIME_TO_LIVE, Nat, Target};
use super::select::{self, Except};
use super::state::Model;
use super::wire::{Carries, TCP};
use super::world::{Backend, Frontend, FrontendName, Gate};

/// State of the flow to which a packet belongs.
enum Fate {
    GoesOn,
    /// Another flow has taken its source port, so it must begin again.
    Gone,
    /// The client repeats its opening because the backend has not answered.
    Unanswered,
}

impl Model {
    /// A client's packet, or an ICMP error about a packet that the client got.
    pub(super) fn forward(
        &mut self,
        arrival: &Arrival<'_>,
        (name, frontend): (&FrontendName, &Frontend),
        notes: &mut Vec<Reason>,
    ) -> Result<Course, Stop> {
        let (client, _, protocol) = arrival.ends();
        let flow_name = (client.0, client.1, *name);
        let opens = opens(protocol, arrival.tcp_flags);
        let backend_of = |id| arrival.world.backend(id).filter(|backend| backend.takes(opens));
        // A Node sent it back, or it would have more left.
        let is_returned = arrival.wire.ip.time_to_live < DSR_TIME_TO_LIVE;
        let is_first =
            matches!(arrival.wire.carries, Carries::Transport { .. }) && (opens || protocol != TCP);
        let by_nat = !frontend.is_dsr || frontend.nat_instead && is_returned && is_first;
        let known = self.memory.flow(&flow_name).copied();
        let known = known.and_then(|flow| Some((flow, backend_of(flow.backend)?)));
        let known = known.filter(|(flow, backend)| !(opens && self.has_ended(&flow_name, flow, backend)));
        let known = known.filter(|(flow, _)| {
            let is_pending = !self.memory.flows.contains_key(&flow_name);
            !(is_pending && frontend.is_dsr && by_nat && flow.is_dsr())
        });
        let mut moves_to = None;
        let known = known.filter(|(flow, backend)| {
            if arrival.is_error() {
                return true;
            }
            match self.advance(arrival, &flow_name, *flow, backend, notes) {
                Fate::GoesOn => true,
                Fate::Gone => false,
                Fate::Unanswered => {
                    let to = self.moves(arrival, &flow_name, backend, flow.snat_port);
                    moves_to = if let Move::To(backend) = to { Some(backend) } else { None };
                    matches!(to, Move::Stays)
                }
            }
        });
        let (backend, snat_port) = match known {
            Some((flow, backend)) => (backend, flow.snat_port),
            None => self.begin(arrival, (name, frontend), &flow_name, (moves_to, by_nat), notes)?,
        };
        let is_dsr = snat_port == 0;
        let wire = arrival.wire;
        let mut against = vec![];
        if backend.mtu.is_some_and(|mtu| wire.ip.length > usize::from(mtu)) {
            against.push(Reason::TooBig);
        }
        let family = wire.ip.source.is_ipv4();
        if is_dsr && is_returned {
            against.push(Reason::Returned);
        }
        if !is_dsr && (backend.address.is_ipv4() != family || backend.snat.is_ipv4() != family) {
            against.push(Reason::BadBackend);
        }
        if backend.mac.is_none() || backend.link == 0 {
            against.push(Reason::NoNeighbour);
        }
        let nat = Nat { from: (backend.snat, snat_port), to: (backend.address, backend.port) };
        let nat = (!is_dsr).then_some(nat);
        let (to_mac, from_mac) = (backend.mac.unwrap_or_default(), backend.from_mac);
        let target = Target { to_mac, from_mac, nat };
        Ok(Course { target, backend: backend.id, link: backend.link, is_reply: false, against })
    }

    /// Whether an opening uses the ports of a connection that has ended. If so, nothing of the old one is
    /// remembered any more.
    fn has_ended(&mut self, name: &FlowName, flow: &Flow, backend: &Backend) -> bool {
        let memory = &mut self.memory;
        // A connection that the client has not closed itself stays its own.
        if flow.is_dsr() || flow.seen & (FIN | RST) == 0 || !memory.flows.contains_key(name) {
            return false;
        }
        let Some(reply) = memory.reply_of(name, backend, flow.snat_port) else { return true };
        if !ends::has_ended(flow.seen, reply.seen) {
            return false;
        }
        let name = reply_name(backend, flow.snat_port);
        memory.replies.remove(&name);
        memory.pending_replies.remove(&name);
        true
    }

    /// Takes one more packet of a known flow.
    fn advance(
        &mut self,
        arrival: &Arrival<'_>,
        name: &FlowName,
        mut flow: Flow,
        backend: &Backend,
        notes: &mut Vec<Reason>,
    ) -> Fate {
        let is_failing = self.is_failing(backend);
        flow.used = self.now;
        self.client_lives(arrival, name, &mut flow, backend);
        let memory = &mut self.memory;
        if !flow.is_dsr() {
            let way = way_back(arrival, name, &flow);
            (flow.way, flow.is_routed) = (arrival.way(), arrival.world.returns_by_routes);
            if let Some(way) = way
                && let Some(reply) = memory.reply_of(name, backend, flow.snat_port)
            {
                reply.way = way;
            }
        }
        *memory.flow(name).unwrap() = flow;
        if memory.flows.contains_key(name) {
            return Fate::GoesOn;
        }
        let opens = opens(arrival.ends().2, arrival.tcp_flags);
        let mut reply_of = None;
        if !flow.is_dsr() {
            let Some(reply) = memory.reply_of(name, backend, flow.snat_port).copied() else {
                return Fate::Gone;
            };
            let is_due = is_failing || reply.is_refused || reply.used < self.now;
            if opens && reply.seen == 0 && is_due {
                return Fate::Unanswered;
            }
            // A reset is not an answer.
            if reply.seen == 0 || reply.seen & RST != 0 {
                return Fate::GoesOn;
            }
            reply_of = Some(reply);
        }
        if !opens {
            self.give_place(name, flow, &reply_name(backend, flow.snat_port), reply_of, notes);
        }
        Fate::GoesOn
    }

    /// A pending flow that goes on moves to the tables: both of its entries get a place, or neither does.
    fn give_place(
        &mut self,
        name: &FlowName,
        flow: Flow,
        reply_name: &ReplyName,
        reply: Option<Reply>,
        notes: &mut Vec<Reason>,
    ) {
        let memory = &mut self.memory;
        let needs_place = reply.is_some() && !memory.replies.contains_key(reply_name);
        if let Some(reply) = reply.filter(|_| needs_place)
            && !memory.replies.insert(*reply_name, reply)
        {
            notes.push(Reason::FlowsFull);
            return;
        }
        if !memory.flows.insert(*name, flow) {
            notes.push(Reason::FlowsFull);
            if needs_place {
                memory.replies.remove(reply_name);
            }
            return;
        }
        memory.pending_flows.remove(name);
        if reply.is_some() {
            memory.pending_replies.remove(reply_name);
        }
    }

    fn begin<'w>(
        &mut self,
        arrival: &Arrival<'w>,
        frontend: (&FrontendName, &Frontend),
        name: &FlowName,
        (moves_to, by_nat): (Option<&'w Backend>, bool),
        notes: &mut Vec<Reason>,
    ) -> Result<(&'w Backend, u16), Stop> {
        let because = |reason| Err(Stop::Because(reason));
        let Frontend { is_dsr, service, .. } = *frontend.1;
        let (client, _, protocol) = arrival.ends();
        let is_reset = arrival.tcp_flags & RST != 0;
        let begins = protocol != TCP || opens(protocol, arrival.tcp_flags);
        if frontend.1.gate == Gate::KnownFlowsOnly || (frontend.1.gate == Gate::OpeningsOnly && !begins) {
            return because(Reason::NotTaken);
        }
        if frontend.1.table.is_empty() {
            return because(Reason::NoBackends);
        }
        if arrival.is_error() && !is_dsr {
            return because(Reason::UnknownError);
        }
        if !arrival.world.is_foreign(arrival.wire.ip.source) {
            // The agent's own, which a Node sent back.
            let is_back = arrival.wire.ip.time_to_live < DSR_TIME_TO_LIVE;
            let is_canary = is_dsr && is_back && begins && protocol == TCP;
            return because(if is_canary { Reason::Canary } else { Reason::Martian });
        }
        if frontend.1.is_restricted && !arrival.world.admits(service, client.0) {
            return because(Reason::SourceDenied);
        }
        if is_reset && !is_dsr {
            return because(Reason::UnknownReset);
        }
        let chosen = || {
            let chosen = select::backend(arrival.world, self, frontend, client, begins, Except::Nobody);
            chosen.map(|chosen| chosen.backend)
        };
        let Some(mut backend) = moves_to.or_else(chosen) else { return because(Reason::NoLiveBackend) };
        if arrival.is_error() || is_reset {
            // Nothing can follow on it, so it is not remembered.
            return Ok((backend, 0));
        }
        if !arrival.world.has_budget {
            notes.extend((!by_nat).then_some(Reason::NotRemembered));
            return if by_nat { because(Reason::OverBudget) } else { Ok((backend, 0)) };
        }
        let old = self.memory.flow(name).copied();
        let mut snat_port = 0;
        if by_nat {
            let found = self.find_port(arrival, frontend, name, backend, begins);
            (backend, snat_port) = found.ok_or(Stop::Because(Reason::PortsExhausted))?;
        }
        notes.extend((is_dsr && by_nat).then_some(Reason::NatInstead));
        let flow = self.new_flow(arrival, backend, snat_port);
        if let Some(old) = old.filter(|old| (old.backend, old.snat_port) != (backend.id, snat_port)) {
            self.memory.leave(arrival.world, name, &old);
        }
        self.memory.flows.remove(name);
        self.memory.pending_flows.insert(*name, flow);
        self.memory.traffic.entry(backend.id.0).or_default()[4] += 1;
        if frontend.1.affinity_secs > 0 {
            self.memory.affinity.insert((client.0, service), (backend.host, self.now));
        }
        Ok((backend, snat_port))
    }

    fn new_flow(&self, arrival: &Arrival<'_>, backend: &Backend, snat_port: u16) -> Flow {
        let seen = seen_after(0, arrival.tcp_flags, Some(0));
        let (seq, ack) = arrival.streams();
        let is_routed = arrival.world.returns_by_routes;
        Flow { backend: backend.id, snat_port, seen, way: arrival.way(), is_routed, used: self.now, seq, ack }
    }

    /// A source port at this backend. If all are taken, and the flow begins, another backend will do, too.
    fn find_port<'w>(
        &mut self,
        arrival: &Arrival<'w>,
        frontend: (&FrontendName, &Frontend),
        name: &FlowName,
        backend: &'w Backend,
        begins: bool,
    ) -> Option<(&'w Backend, u16)> {
        let world = arrival.world;
        let way = world.route(name.0).unwrap_or_else(|| arrival.way());
        if let Some(port) = select::snat_port(world, self, name, backend, way) {
            return Some((backend, port));
        }
        let client = (name.0, name.1);
        let other = select::backend(world, self, frontend, client, true, Except::This(backend.id));
        let other = other.filter(|_| begins)?.backend;
        select::snat_port(world, self, name, other, way).map(|port| (other, port))
    }
}

/// Where the replies of a known flow go from now on; `None`: where they went before.
fn way_back(arrival: &Arrival<'_>, name: &FlowName, flow: &Flow) -> Option<Way> {
    let came_otherwise = flow.way != arrival.way();
    let choice_is_gone = flow.is_routed && !arrival.world.returns_by_routes;
    arrival.world.route(name.0).or_else(|| (came_otherwise || choice_is_gone).then(|| arrival.way()))
}
