// SPDX-License-Identifier: Apache-2.0
//! Reads the flows in the pinned maps, for `llb-agent flows`. It changes nothing, and works with or without a
//! running agent. It is slow on purpose: forwarding must not notice it.

use std::cell::Cell;
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

/// After this many cache lines of a table, which are 256 KiB, the reader pauses and leaves the CPU and its caches to the
/// programs.
const LINES_AT_ONCE: u32 = 4096;

/// How long a pause is. So it reads at most a million cache lines in a second, which are 64 MB. A flow is one line.
const PAUSE: Duration = Duration::from_millis(4);

/// How many buckets are read in a row. Their tags are eight cache lines.
const BUCKETS_AT_ONCE: u32 = 64;

/// The cache lines that a look-up reads: one with tags, and one with a flow.
const LINES_OF_LOOK_UP: u32 = 2;

/// The flows of a packet plane.
#[derive(Debug)]
pub struct FlowReader {
    flows: FlowTable<ForwardKey, ForwardEntry>,
    replies: FlowTable<ReplyKey, ReplyEntry>,
    pending_flows: Table<ForwardKey, ForwardEntry>,
    pending_replies: Table<ReplyKey, ReplyEntry>,
    backends: HashMap<BackendId, BackendEntry>,
    now: Tick,
    pace: Pace,
}

/// Keeps the reader slow.
#[derive(Debug, Default)]
struct Pace {
    /// Cache lines that were read since the last pause.
    lines: Cell<u32>,
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
            flows: FlowTable::read_only(&map(maps::FLOWS)?)?,
            replies: FlowTable::read_only(&map(maps::REPLIES)?)?,
            pending_flows: Table::new(map(maps::PENDING_FLOWS)?)?,
            pending_replies: Table::new(map(maps::PENDING_REPLIES)?)?,
            backends,
            now: clock::now(),
            pace: Pace::default(),
        }))
    }

    /// Calls `work` with each flow, in no particular order. A flow that begins, ends or is confirmed meanwhile may be left
    /// out, or come twice. Flows of backends that are no longer in the maps are left out: the programs do not know them either.
    ///
    /// # Errors
    /// A map can't be read.
    pub fn each(&self, work: &mut dyn FnMut(FlowEnds, FlowMark)) -> anyhow::Result<()> {
        let mut visit = |key: ForwardKey, entry: ForwardEntry| {
            self.pace.has_read(1, pause);
            if let Some(ends) = self.ends(&key, &entry) {
                work(ends, FlowMark { entry });
            }
        };
        let flows = self.flows.words();
        self.pending_flows.for_each(|key, entry| {
            self.pace.has_read(LINES_OF_LOOK_UP, pause);
            // The entry in `FLOWS` counts, as it does for a client's packets.
            if flows.get(&key).is_none() {
                visit(key, entry);
            }
        })?;
        for first in (0..flows.buckets()).step_by(BUCKETS_AT_ONCE as usize) {
            self.pace.has_read(BUCKETS_AT_ONCE / 8, pause);
            flows.for_each_in(first..first + BUCKETS_AT_ONCE, &mut visit);
        }
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
        // The entry was written while it was read, so this is only half of it.
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

    /// The entry for the backend's packets; `None` in mode DSR, in which they do not pass this machine.
    fn reply(&self, ends: &FlowEnds, entry: &ForwardEntry) -> Option<ReplyEntry> {
        let backend = self.backends.get(&entry.backend).filter(|_| entry.snat_port.number() != 0)?;
        let key = ReplyKey::new(backend.address, backend.port, entry.snat_port, backend.protocol);
        self.pace.has_read(LINES_OF_LOOK_UP, pause);
        let placed = self.replies.words().get(&key);
        let reply = placed.or_else(|| self.pending_replies.get(&key).ok().flatten())?;
        let client = SocketAddr::new(IpAddr::from(reply.client), reply.client_port.number());
        (reply.backend == entry.backend && client == ends.client).then_some(reply)
    }
}

impl Pace {
    /// Pauses whenever enough was read.
    fn has_read(&self, lines: u32, pause: impl FnOnce()) {
        let read = self.lines.get() + lines;
        self.lines.set(read % LINES_AT_ONCE);
        if read >= LINES_AT_ONCE {
            pause();
        }
    }
}

/// The state of a flow, by the packets that were seen from client and backend. Without `is_nat`, the backend's are never seen.
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

#[expect(clippy::disallowed_methods, reason = "the thread does nothing but read flows")]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use llb_common::conntrack::{ACK, DATA, FIN, RST, SYN};

    use super::*;

    #[test]
    fn whatever_is_read_brings_the_next_pause_nearer() {
        let (pace, pauses) = (Pace::default(), Cell::new(0));
        for _ in 0..LINES_AT_ONCE {
            pace.has_read(1, || pauses.set(pauses.get() + 1));
            pace.has_read(LINES_OF_LOOK_UP, || pauses.set(pauses.get() + 1));
        }
        assert_eq!(pauses.get(), 1 + LINES_OF_LOOK_UP);
    }

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
