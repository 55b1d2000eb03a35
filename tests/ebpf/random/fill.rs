// SPDX-License-Identifier: Apache-2.0
//! Writes plain data into the maps of both programs. `remembered.rs` has the entries that packets create there.

use std::collections::BTreeMap;
use std::mem::offset_of;

use bytemuck::{bytes_of, cast_slice, pod_read_unaligned};
use llb_common::address::{Address, Mac, WirePort};
use llb_common::backend::{ACTIVE, BackendEntry, DEAD, DRAINING, FailureMark};
use llb_common::conntrack::{ForwardEntry, ReplyEntry};
use llb_common::frontend::{
    AffinityEntry, CHUNK_SLOTS, DSR, FrontendEntry, FrontendKey, KNOWN_FLOWS_ONLY, MaglevTable, MemberKey,
    NAT_INSTEAD, OPENINGS_ONLY, RESTRICTED, SourceRangeKey,
};
use llb_common::maps;
use llb_common::settings::{LinkSettings, Settings};
use llb_common::time::{Tick, tick};

use super::remembered::{
    affinity_key, failure, flow_entry, flow_key, fragment_key, id, reply_entry, reply_key,
};
use crate::model::flows::{
    CLOSED_SECS, CONVERSATION_SECS, Flow, FlowName, FragmentName, Memory, OPENING_SECS, QUESTION_SECS, Reply,
    ReplyName,
};
use crate::model::wire::UDP;
use crate::model::world::{FrontendName, Gate, Id, State, World};
use crate::programs::{Hook, Program, monotonic_nanoseconds, raw};

/// Lines of the two tables: so few that both get full, with 16 places and with 8.
pub(super) const FLOW_LINES: u32 = 1 + 1 + 16;
pub(super) const REPLY_LINES: u32 = 1 + 1 + 8;

/// Both programs, each with its own maps.
pub(super) struct Kernel {
    pub(super) programs: [Program; 2],
}

impl Kernel {
    pub(super) fn load() -> Self {
        let sizes = [(maps::FLOWS.name, FLOW_LINES), (maps::REPLIES.name, REPLY_LINES)];
        Self { programs: [Hook::Xdp, Hook::Tc].map(|hook| Program::load(hook, &sizes)) }
    }

    fn each(&mut self, mut act: impl FnMut(&mut Program)) {
        self.programs.iter_mut().for_each(&mut act);
    }

    /// Writes a whole world, and removes everything remembered.
    pub(super) fn fill(&mut self, world: &World, now: u64) {
        self.each(forget);
        self.settings(world);
        world.backends.keys().for_each(|index| self.backend(world, *index));
        for name in world.frontends.keys() {
            self.frontend(world, now, name);
            self.each(|program| program.insert(maps::VIPS.name, Address::from(name.0).bytes(), 1_u32));
        }
        self.links(world);
        for range in &world.ranges {
            let network = Address::from(range.network);
            let key = SourceRangeKey::range(range.service, network, range.prefix_length);
            self.each(|program| program.admit(key, range.admits));
        }
    }

    /// Replaces the links that the programs know.
    pub(super) fn links(&mut self, world: &World) {
        self.each(|program| {
            for (ifindex, _) in program.entries::<4, 8>(maps::LINKS.name) {
                program.remove::<_, 8>(maps::LINKS.name, ifindex);
            }
            for (ifindex, mac) in &world.links {
                program.insert(maps::LINKS.name, *ifindex, raw::<8>(&[&mac[..], &[0, 0]].concat()));
            }
        });
    }

    /// From now on packets arrive by this link.
    pub(super) fn link(&mut self, world: &World, (ifindex, mac): (u32, [u8; 6])) {
        let returns_by_routes = world.returns_by_routes.into();
        let link = LinkSettings { ifindex, mac: Mac::new(mac), traces: 0, returns_by_routes };
        self.each(|program| program.set(maps::LINK.name, 0, raw::<12>(bytes_of(&link))));
    }

    pub(super) fn settings(&mut self, world: &World) {
        let mut settings = Settings {
            snat_first_port: *world.snat_ports.start(),
            snat_last_port: *world.snat_ports.end(),
            flow_budget: if world.has_budget { u32::MAX } else { 0 },
            ..Settings::default()
        };
        for (place, address) in settings.snat.iter_mut().zip(&world.snat) {
            *place = Address::from(*address);
        }
        self.each(|program| program.set(maps::SETTINGS.name, 0, raw::<96>(bytes_of(&settings))));
    }

    pub(super) fn backend(&mut self, world: &World, index: u32) {
        let backend = &world.backends[&index];
        let (vip, port, protocol) = backend.frontend;
        let entry = BackendEntry {
            id: id(backend.id),
            ifindex: backend.link,
            address: Address::from(backend.address),
            vip: Address::from(vip),
            snat: Address::from(backend.snat),
            host: backend.host,
            mtu: backend.mtu.unwrap_or(0),
            port: WirePort::new(backend.port),
            vip_port: WirePort::new(port),
            mac: Mac::new(backend.mac.unwrap_or_default()),
            source_mac: Mac::new(backend.from_mac),
            state: match backend.state {
                State::Active => ACTIVE,
                State::Draining => DRAINING,
                State::Dead => DEAD,
            },
            protocol,
        };
        let member = MemberKey {
            frontend: world.frontends.get(&backend.frontend).map_or(0, |it| it.id),
            host: backend.host,
        };
        self.each(|program| {
            program.set(maps::BACKENDS.name, index, raw::<80>(bytes_of(&entry)));
            program.insert(maps::MEMBERS.name, raw::<8>(bytes_of(&member)), entry.id.0);
        });
    }

    /// Writes the table into one chunk and the previous table into the next.
    pub(super) fn frontend(&mut self, world: &World, now: u64, name: &FrontendName) {
        let frontend = &world.frontends[name];
        let first_chunk = 2 * frontend.id;
        let table = |slots: &[Id], behind| MaglevTable {
            first_chunk: first_chunk + behind,
            slots: slots.len() as u32,
        };
        let (previous, changed) = match &frontend.previous {
            Some((slots, changed)) => (&slots[..], tick_of(now - changed)),
            None => (&[][..], 0),
        };
        let gate = match frontend.gate {
            Gate::Open => 0,
            Gate::OpeningsOnly => OPENINGS_ONLY,
            Gate::KnownFlowsOnly => KNOWN_FLOWS_ONLY,
        };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let entry = FrontendEntry {
            id: frontend.id,
            service: frontend.service,
            flags: flag(frontend.is_dsr, DSR)
                | flag(frontend.nat_instead, NAT_INSTEAD)
                | flag(frontend.is_restricted, RESTRICTED)
                | gate,
            affinity_secs: frontend.affinity_secs as u32,
            table: table(&frontend.table, 0),
            previous: table(previous, 1),
            changed,
            padding: 0,
        };
        let key = FrontendKey::new(Address::from(name.0), WirePort::new(name.1), name.2);
        let chunks = [(first_chunk, &frontend.table[..]), (first_chunk + 1, previous)];
        self.each(|program| {
            for (chunk, slots) in chunks {
                let mut ids = [0; CHUNK_SLOTS];
                ids.iter_mut().zip(slots).for_each(|(place, slot)| *place = id(*slot).0);
                program.set(maps::MAGLEV.name, chunk, raw::<{ 4 * CHUNK_SLOTS }>(cast_slice(&ids)));
            }
            program.insert(maps::FRONTENDS.name, raw::<24>(bytes_of(&key)), raw::<40>(bytes_of(&entry)));
        });
    }

    /// Writes all times again after time has passed.
    pub(super) fn times(&mut self, world: &World, memory: &Memory, now: u64) {
        world.frontends.keys().for_each(|name| self.frontend(world, now, name));
        for ((client, service), (host, used)) in &memory.affinity {
            let entry = AffinityEntry { host: *host, used: tick_of(now - used) };
            let key = raw::<24>(&affinity_key(*client, *service));
            self.each(|program| program.insert(maps::AFFINITY.name, key, raw::<8>(bytes_of(&entry))));
        }
    }

    /// Writes what is known of failing backends.
    fn failing(&mut self, memory: &Memory, now: u64) {
        for (backend, (finding, at)) in &memory.failing {
            let mark = FailureMark::new(failure(*finding), tick_of(now - at)).0;
            self.each(|program| program.insert(maps::FAILING.name, id(*backend).0, mark));
        }
    }

    /// Makes pending entries so old or so new that it is clear for each limit on which side of it they are, and
    /// marks of failing backends as old as the model has them. With the kernel's own clock, which runs on, no test
    /// could know.
    pub(super) fn ages(&mut self, memory: &Memory, now: u64) {
        self.failing(memory, now);
        for (name, flow) in &memory.pending_flows {
            let key: [u8; 24] = raw(&flow_key(name));
            let entry = aged_flow(flow, now);
            self.each(|program| program.insert(maps::PENDING_FLOWS.name, key, entry));
        }
        for (name, reply) in &memory.pending_replies {
            let key: [u8; 24] = raw(&reply_key(name));
            let entry = aged_reply(reply, now);
            self.each(|program| program.insert(maps::PENDING_REPLIES.name, key, entry));
        }
    }

    /// Does the same for the entries in the tables, but leaves none in the present tick: in that tick the programs
    /// do not note again where a stream is.
    pub(super) fn ages_of_placed(&mut self, memory: &Memory, now: u64) {
        let used = |protocol, used: u64| match now - used {
            age if protocol == UDP => clear_tick(age),
            0..=CLOSED_SECS => tick_of(0) - 2,
            _ => 0,
        };
        let flows = memory.flows.iter();
        let flows: BTreeMap<_, _> =
            flows.map(|(name, flow)| (flow_key(name), used(name.2.2, flow.used))).collect();
        let replies = memory.replies.iter();
        let replies: BTreeMap<_, _> =
            replies.map(|(name, reply)| (reply_key(name), used(name.3, reply.used))).collect();
        self.each(|program| {
            program.patch_placed(maps::FLOWS.name, offset_of!(ForwardEntry, used), &flows);
            program.patch_placed(maps::REPLIES.name, offset_of!(ReplyEntry, used), &replies);
        });
    }

    pub(super) fn evict_flow(&mut self, name: &FlowName) {
        let key: [u8; 24] = raw(&flow_key(name));
        self.each(|program| program.remove::<_, 24>(maps::PENDING_FLOWS.name, key));
    }

    pub(super) fn evict_reply(&mut self, name: &ReplyName) {
        let key: [u8; 24] = raw(&reply_key(name));
        self.each(|program| program.remove::<_, 40>(maps::PENDING_REPLIES.name, key));
    }

    /// Does what the agent does: otherwise the ring of early fragments fills up.
    pub(super) fn empty_rings(&mut self) {
        self.each(|program| drop(program.early()));
    }

    pub(super) fn evict_fragment(&mut self, name: &FragmentName) {
        let key: [u8; 40] = raw(&fragment_key(name));
        self.each(|program| program.remove::<_, 4>(maps::FRAGMENTS.name, key));
    }
}

/// Removes what packets have created, and the frontends of the last world.
fn forget(program: &mut Program) {
    program.clear_tables();
    for (key, _) in program.entries::<24, 40>(maps::FRONTENDS.name) {
        program.remove::<_, 40>(maps::FRONTENDS.name, key);
    }
    for (key, _) in program.entries::<16, 4>(maps::VIPS.name) {
        program.remove::<_, 4>(maps::VIPS.name, key);
    }
    for (key, _) in program.entries::<8, 4>(maps::MEMBERS.name) {
        program.remove::<_, 4>(maps::MEMBERS.name, key);
    }
    for (key, _) in program.entries::<24, 24>(maps::PENDING_FLOWS.name) {
        program.remove::<_, 24>(maps::PENDING_FLOWS.name, key);
    }
    for (key, _) in program.entries::<24, 40>(maps::PENDING_REPLIES.name) {
        program.remove::<_, 40>(maps::PENDING_REPLIES.name, key);
    }
    for (key, _) in program.entries::<4, 4>(maps::FAILING.name) {
        program.remove::<_, 4>(maps::FAILING.name, key);
    }
    for (key, _) in program.entries::<40, 4>(maps::FRAGMENTS.name) {
        program.remove::<_, 4>(maps::FRAGMENTS.name, key);
    }
    for (key, _) in program.entries::<24, 8>(maps::AFFINITY.name) {
        program.remove::<_, 8>(maps::AFFINITY.name, key);
    }
}

fn aged_flow(flow: &Flow, now: u64) -> [u8; 24] {
    let entry: ForwardEntry = pod_read_unaligned(&flow_entry(flow));
    raw(bytes_of(&ForwardEntry { used: clear_tick(now - flow.used), ..entry }))
}

fn aged_reply(reply: &Reply, now: u64) -> [u8; 40] {
    let entry: ReplyEntry = pod_read_unaligned(&reply_entry(reply));
    raw(bytes_of(&ReplyEntry { used: clear_tick(now - reply.used), ..entry }))
}

/// A tick that is on the same side of all limits as this age, whenever in the next seconds it is looked at.
fn clear_tick(age_secs: u64) -> Tick {
    if age_secs < OPENING_SECS {
        Tick::MAX
    } else if age_secs < QUESTION_SECS {
        tick_of(4)
    } else if age_secs <= CLOSED_SECS {
        tick_of(15)
    } else if age_secs < CONVERSATION_SECS {
        tick_of(60)
    } else {
        0
    }
}

/// The tick that was this many seconds ago.
fn tick_of(age_secs: u64) -> Tick {
    tick(monotonic_nanoseconds().saturating_sub(age_secs * 1_000_000_000))
}

pub(super) fn uptime_secs() -> u64 {
    monotonic_nanoseconds() / 1_000_000_000
}
