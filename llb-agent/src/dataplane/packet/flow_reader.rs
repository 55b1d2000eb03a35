// SPDX-License-Identifier: Apache-2.0
//! Reads the flows in the pinned maps, for `llb-agent flows`. It changes nothing, and works with or without a
//! running agent. It is slow on purpose: forwarding must not notice it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use llb_common::address::{Address, WirePort};
use llb_common::backend::{BackendEntry, BackendId};
use llb_common::conntrack::{
    CLOSED_SECS, ForwardEntry, ForwardKey, HALF_CLOSED_SECS, HALF_OPEN_SECS, ReplyEntry, ReplyKey,
    forward_key, lifetime_secs,
};
use llb_common::frontend::TCP;
use llb_common::maps;
use llb_common::time::{Tick, elapsed_secs};

use super::clock;
use super::flow_table::FlowTable;
use super::pinned;
use super::table::Table;
use crate::model::{FlowEnds, FlowState, Frontend, Port, Protocol};

/// After so many flows, which are 256 KiB of a table, there is a pause, in which the CPU and its caches belong to the
/// programs.
const FLOWS_AT_ONCE: u32 = 4096;

/// How long that pause is. So at most a million flows are read in a second, which is 64 MB of memory.
const PAUSE: Duration = Duration::from_millis(4);

/// The flows of a packet plane.
#[derive(Debug)]
pub struct FlowReader {
    flows: FlowTable<ForwardKey, ForwardEntry>,
    replies: FlowTable<ReplyKey, ReplyEntry>,
    pending_flows: Table<ForwardKey, ForwardEntry>,
    pending_replies: Table<ReplyKey, ReplyEntry>,
    backends: HashMap<BackendId, BackendEntry>,
    now: Tick,
}

/// What the maps have of a flow besides its ends.
#[derive(Clone, Copy, Debug)]
pub struct FlowMark {
    entry: ForwardEntry,
}

impl FlowReader {
    /// The flows that are pinned in `bpf_dir`; `None` if nothing is pinned there.
    ///
    /// # Errors
    /// The maps can't be used.
    pub fn open(bpf_dir: &Path) -> anyhow::Result<Option<Self>> {
        let Some(layout) = pinned::layout_with(bpf_dir, maps::FLOWS)? else { return Ok(None) };
        let map = |map| pinned::shared(&layout, map);
        let mut backends = HashMap::new();
        Table::<u32, BackendEntry>::new(map(maps::BACKENDS)?)?.for_each(|_, entry| {
            if entry.state != 0 {
                backends.insert(entry.id, entry);
            }
        })?;
        Ok(Some(Self {
            flows: FlowTable::existing(&map(maps::FLOWS)?)?,
            replies: FlowTable::existing(&map(maps::REPLIES)?)?,
            pending_flows: Table::new(map(maps::PENDING_FLOWS)?)?,
            pending_replies: Table::new(map(maps::PENDING_REPLIES)?)?,
            backends,
            now: clock::now(),
        }))
    }

    /// Calls `work` with each flow, in no order. One that begins, ends or is confirmed meanwhile may be left out, or come
    /// twice. Flows of backends that are no longer in the maps are left out: the programs do not know them either.
    ///
    /// # Errors
    /// A map can't be read.
    pub fn each(&self, work: &mut dyn FnMut(FlowEnds, FlowMark)) -> anyhow::Result<()> {
        let mut seen: u32 = 0;
        let mut visit = |key: ForwardKey, entry: ForwardEntry| {
            seen = seen.wrapping_add(1);
            if seen.is_multiple_of(FLOWS_AT_ONCE) {
                pause();
            }
            if let Some(ends) = self.ends(&key, &entry) {
                work(ends, FlowMark { entry });
            }
        };
        self.pending_flows.for_each(|key, entry| {
            // The entry in `FLOWS` counts, as it does for a client's packets.
            if self.flows.words().get(&key).is_none() {
                visit(key, entry);
            }
        })?;
        self.flows.words().for_each(visit);
        Ok(())
    }

    /// For how many seconds a flow has been idle, give or take two, and where it is in its life.
    pub fn life(&self, ends: &FlowEnds, mark: FlowMark) -> (u32, FlowState) {
        let ForwardEntry { used, seen, snat_port, .. } = mark.entry;
        let reply = self.reply(ends, &mark.entry);
        let used = reply.map_or(used, |reply| reply.used.max(used));
        let is_nat = snat_port.number() != 0;
        let state = state(ends.frontend.protocol, seen, is_nat, reply.map_or(0, |reply| reply.seen));
        (elapsed_secs(used, self.now), state)
    }

    fn ends(&self, key: &ForwardKey, entry: &ForwardEntry) -> Option<FlowEnds> {
        let backend = self.backends.get(&entry.backend)?;
        let its = forward_key(key.client, key.client_port, backend.vip, backend.vip_port, backend.protocol);
        // Half an entry that was written while it was read.
        if its != *key {
            return None;
        }
        let at = |address: Address, port: WirePort| SocketAddr::new(IpAddr::from(address), port.number());
        let protocol = if backend.protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
        let port = Port::new(backend.vip_port.number().into())?;
        Some(FlowEnds {
            frontend: Frontend { vip: IpAddr::from(backend.vip), port, protocol },
            client: at(key.client, key.client_port),
            backend: at(backend.address, backend.port),
        })
    }

    /// The entry of the backend's packets; `None` in mode DSR, in which they do not come by.
    fn reply(&self, ends: &FlowEnds, entry: &ForwardEntry) -> Option<ReplyEntry> {
        let backend = self.backends.get(&entry.backend).filter(|_| entry.snat_port.number() != 0)?;
        let key = ReplyKey::new(backend.address, backend.port, entry.snat_port, backend.protocol);
        let placed = self.replies.words().get(&key);
        let reply = placed.or_else(|| self.pending_replies.get(&key).ok().flatten())?;
        let client = SocketAddr::new(IpAddr::from(reply.client), reply.client_port.number());
        (reply.backend == entry.backend && client == ends.client).then_some(reply)
    }
}

/// Where a flow is, by what was seen of client and backend. Without `is_nat`, the backend's packets are never seen.
fn state(protocol: Protocol, forward: u8, is_nat: bool, reply: u8) -> FlowState {
    if protocol == Protocol::Udp {
        return if is_nat && reply == 0 { FlowState::Unanswered } else { FlowState::Open };
    }
    match lifetime_secs(TCP, forward, reply) {
        CLOSED_SECS => FlowState::Closed,
        HALF_CLOSED_SECS => FlowState::Closing,
        HALF_OPEN_SECS => FlowState::Opening,
        _ => FlowState::Open,
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread does nothing but this walk")]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use llb_common::conntrack::{ACK, DATA, FIN, RST, SYN};

    use super::*;

    #[test]
    fn a_state_follows_from_what_was_seen_in_both_directions() {
        let tcp = |forward, reply| state(Protocol::Tcp, forward, true, reply);
        assert_eq!(tcp(SYN, 0), FlowState::Opening);
        assert_eq!(tcp(SYN, SYN), FlowState::Opening);
        assert_eq!(tcp(SYN | DATA, SYN | DATA), FlowState::Open);
        assert_eq!(tcp(SYN | DATA | FIN, SYN | DATA), FlowState::Closing);
        assert_eq!(tcp(SYN | DATA | FIN, SYN | DATA | FIN), FlowState::Closed);
        assert_eq!(tcp(SYN, RST | ACK), FlowState::Closed, "refused");
        assert_eq!(state(Protocol::Tcp, DATA, false, 0), FlowState::Open, "dsr");
        assert_eq!(state(Protocol::Udp, DATA, true, 0), FlowState::Unanswered);
        assert_eq!(state(Protocol::Udp, DATA, true, DATA), FlowState::Open);
        assert_eq!(state(Protocol::Udp, DATA, false, 0), FlowState::Open, "nobody knows");
    }
}
