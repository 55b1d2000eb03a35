// SPDX-License-Identifier: Apache-2.0
//! Backends that refuse or do not answer new connections: which they are, and whether a connection goes to
//! another one. This is only for TCP in mode NAT. The agent says which of them are dead.

use super::arrival::Arrival;
use super::ends::{RST, SYN};
use super::flows::{Finding, FlowName, Reply, ReplyName, reply_name};
use super::select::{self, Chosen, Except};
use super::state::Model;
use super::wire::{Carries, TCP};
use super::world::{Backend, Frontend, Gate};

/// Seconds for which a finding counts, and for which other backends are preferred to a dead one.
const FAILING_SECS: u64 = 10;
/// Seconds for which other backends are preferred to one that refuses connection after connection.
const REFUSING_SECS: u64 = 3;

/// Where an unanswered flow goes.
pub(super) enum Move<'w> {
    /// There is no other backend.
    Stays,
    To(&'w Backend),
    /// In mode NAT only because a Node sent its first packet back. It tries mode DSR again.
    BeginsAnew,
}

/// Whether the frontend's new flows begin in mode DSR.
fn begins_in_dsr(frontend: &Frontend) -> bool {
    frontend.is_dsr && frontend.gate != Gate::KnownFlowsOnly
}

impl Model {
    /// Whether new connections go elsewhere.
    pub(super) fn is_failing(&self, backend: &Backend) -> bool {
        let limit = match self.memory.failing.get(&backend.id) {
            Some((Finding::Dead, _)) => FAILING_SECS,
            Some((Finding::RefusedAgain, _)) => REFUSING_SECS,
            _ => 0,
        };
        self.age_of_failure(backend).is_some_and(|age| age < limit)
    }

    /// Whether it refused lately, or is dead.
    pub(super) fn is_refusing(&self, backend: &Backend) -> bool {
        let known = self.memory.failing.get(&backend.id);
        self.is_suspected(backend) && known.is_some_and(|(finding, _)| *finding != Finding::Unanswered)
    }

    /// Whether it failed at all, and lately.
    pub(super) fn is_suspected(&self, backend: &Backend) -> bool {
        self.age_of_failure(backend).is_some_and(|age| age < FAILING_SECS)
    }

    fn age_of_failure(&self, backend: &Backend) -> Option<u64> {
        self.memory.failing.get(&backend.id).map(|(_, at)| self.now - at)
    }

    /// Notes what a connection has found: [`Finding::Unanswered`] or [`Finding::Refused`].
    fn suspect(&mut self, backend: &Backend, found: Finding) {
        let is_failing = self.is_failing(backend);
        let known = self.memory.failing.get(&backend.id).copied().filter(|_| self.is_suspected(backend));
        let finding = match (known, found) {
            (None, _) => (found, self.now),
            (Some((Finding::Unanswered, at)), Finding::Refused) => (Finding::Refused, at),
            (Some((Finding::Refused | Finding::RefusedAgain, _)), Finding::Refused) if !is_failing => {
                (Finding::RefusedAgain, self.now)
            }
            (Some(_), _) => return,
        };
        self.memory.failing.insert(backend.id, finding);
    }

    /// Looks at the first packet of a backend to a flow, or at an error about the flow. `true` if the backend
    /// refuses and another one may accept: then the client is not told.
    pub(super) fn is_refusal(
        &mut self,
        arrival: &Arrival<'_>,
        name: &ReplyName,
        reply: &Reply,
        backend: &Backend,
    ) -> bool {
        let refuses = match arrival.wire.carries {
            Carries::Transport { .. } => arrival.tcp_flags & RST != 0,
            Carries::LaterPart => false,
            Carries::Error { is_unreachable, .. } => is_unreachable,
        };
        if name.3 != TCP || !refuses {
            if name.3 == TCP && arrival.tcp_flags & SYN != 0 {
                self.memory.failing.remove(&backend.id);
            }
            return false;
        }
        let flow_name = (reply.client.0, reply.client.1, backend.frontend);
        let flow = self.memory.pending_flows.get(&flow_name);
        // A backend can only refuse a flow of which it got the opening, and nothing since. Other resets reach
        // the client.
        if !flow
            .is_some_and(|flow| flow.seen == SYN && flow.backend == backend.id && flow.snat_port == name.2)
        {
            return false;
        }
        if !reply.is_refused {
            self.suspect(backend, Finding::Refused);
            self.memory.reply(name).unwrap().is_refused = true;
        }
        let frontend = arrival.world.frontends.get(&backend.frontend);
        frontend.is_some_and(begins_in_dsr)
            || self
                .other(arrival, &flow_name, Except::ThisAndRefusing(backend.id), backend)
                .is_some_and(|other| other.is_well)
    }

    /// Where a flow goes which its backend has not answered.
    pub(super) fn moves<'w>(
        &mut self,
        arrival: &Arrival<'w>,
        name: &FlowName,
        backend: &Backend,
        snat_port: u16,
    ) -> Move<'w> {
        self.suspect(backend, Finding::Unanswered);
        let to = if arrival.world.frontends.get(&backend.frontend).is_some_and(begins_in_dsr) {
            Move::BeginsAnew
        } else if let Some(other) = self.other(arrival, name, Except::ThisAndSuspected(backend.id), backend) {
            // A dead one is worse than one that did not answer once.
            if self.is_failing(other.backend) && !self.is_failing(backend) {
                return Move::Stays;
            }
            Move::To(other.backend)
        } else {
            return Move::Stays;
        };
        self.memory.pending_replies.remove(&reply_name(backend, snat_port));
        to
    }

    fn other<'w>(
        &self,
        arrival: &Arrival<'w>,
        name: &FlowName,
        except: Except,
        backend: &Backend,
    ) -> Option<Chosen<'w>> {
        let is_open = |frontend: &&Frontend| {
            !frontend.is_dsr && frontend.gate != Gate::KnownFlowsOnly && !frontend.table.is_empty()
        };
        let frontend = arrival.world.frontends.get(&backend.frontend).filter(is_open)?;
        let frontend = (&backend.frontend, frontend);
        select::backend(arrival.world, self, frontend, (name.0, name.1), true, except)
    }
}
