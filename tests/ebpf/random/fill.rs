//! From plain data to the maps of both programs, and the maps back to be
//! compared with what the model remembers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytemuck::{Zeroable as _, bytes_of, cast_slice};
use llb_common::address::{Address, Mac, Port};
use llb_common::backend::{ACTIVE, BackendEntry, BackendId, DEAD, DRAINING};
use llb_common::conntrack::{
    ForwardEntry, ForwardKey, FragmentKey, FragmentPorts, ReplyEntry, ReplyKey, way,
};
use llb_common::frontend::{
    AffinityEntry, AffinityKey, CHUNK_SLOTS, DSR, FrontendEntry, FrontendKey, MemberKey, RESTRICTED,
    SourceRangeKey, Table,
};
use llb_common::maps;
use llb_common::settings::{LinkSettings, Settings};
use llb_common::time::{Tick, tick};

use crate::model::flows::{Flow, FlowName, FragmentName, Memory, Reply, ReplyName};
use crate::model::world::{FrontendName, Id, State, World};
use crate::programs::{Hook, Program, monotonic_nanoseconds, raw};

/// Both programs, each with its own maps.
pub(super) struct Kernel {
    pub(super) programs: [Program; 2],
}

impl Kernel {
    pub(super) fn load(room: (usize, usize)) -> Self {
        let sizes = [(maps::FLOWS.name, room.0 as u32), (maps::REPLIES.name, room.1 as u32)];
        Self { programs: [Hook::Xdp, Hook::Tc].map(|hook| Program::load(hook, &sizes)) }
    }

    fn each(&mut self, mut act: impl FnMut(&mut Program)) {
        self.programs.iter_mut().for_each(&mut act);
    }

    /// All of a world, and nothing remembered.
    pub(super) fn fill(&mut self, world: &World, now: u64) {
        self.each(forget);
        self.settings(world);
        world.backends.keys().for_each(|index| self.backend(world, *index));
        world.frontends.keys().for_each(|name| self.frontend(world, now, name));
        for (ifindex, mac) in &world.links {
            let value: [u8; 8] = raw(&[&mac[..], &[0, 0]].concat());
            self.each(|program| program.insert(maps::LINKS.name, *ifindex, value));
        }
        for (service, network, length) in &world.ranges {
            let key = SourceRangeKey::range(*service, Address::from(*network), *length);
            self.each(|program| program.admit(key));
        }
    }

    /// What comes next comes by this link.
    pub(super) fn link(&mut self, (ifindex, mac): (u32, [u8; 6])) {
        let link = LinkSettings { ifindex, mac: Mac::new(mac), traces: 0 };
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
            port: Port::new(backend.port),
            vip_port: Port::new(port),
            mac: Mac::new(backend.mac.unwrap_or_default()),
            source_mac: Mac::new(world.links[&backend.link]),
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

    /// The table in one chunk, the previous one in the next.
    pub(super) fn frontend(&mut self, world: &World, now: u64, name: &FrontendName) {
        let frontend = &world.frontends[name];
        let first_chunk = 2 * frontend.id;
        let table =
            |slots: &[Id], behind| Table { first_chunk: first_chunk + behind, slots: slots.len() as u32 };
        let (previous, changed) = match &frontend.previous {
            Some((slots, changed)) => (&slots[..], tick_of(now - changed)),
            None => (&[][..], 0),
        };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let entry = FrontendEntry {
            id: frontend.id,
            service: frontend.service,
            flags: flag(frontend.is_dsr, DSR) | flag(frontend.is_restricted, RESTRICTED),
            affinity_secs: frontend.affinity_secs as u32,
            table: table(&frontend.table, 0),
            previous: table(previous, 1),
            changed,
            padding: 0,
        };
        let key = FrontendKey::new(Address::from(name.0), Port::new(name.1), name.2);
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

    /// Sets all times anew after time has passed.
    pub(super) fn times(&mut self, world: &World, memory: &Memory, now: u64) {
        world.frontends.keys().for_each(|name| self.frontend(world, now, name));
        for ((client, service), (host, used)) in &memory.affinity {
            let entry = AffinityEntry { host: *host, used: tick_of(now - used) };
            let key = raw::<24>(&affinity_key(*client, *service));
            self.each(|program| program.insert(maps::AFFINITY.name, key, raw::<8>(bytes_of(&entry))));
        }
    }

    pub(super) fn evict_flow(&mut self, name: &FlowName) {
        let key: [u8; 24] = raw(&flow_key(name));
        self.each(|program| program.remove::<_, 16>(maps::PENDING_FLOWS.name, key));
    }

    pub(super) fn evict_reply(&mut self, name: &ReplyName) {
        let key: [u8; 24] = raw(&reply_key(name));
        self.each(|program| program.remove::<_, 40>(maps::PENDING_REPLIES.name, key));
    }

    pub(super) fn evict_fragment(&mut self, name: &FragmentName) {
        let key: [u8; 40] = raw(&fragment_key(name));
        self.each(|program| program.remove::<_, 4>(maps::FRAGMENTS.name, key));
    }

    /// All that is remembered is what the model remembers; times are left out.
    pub(super) fn assert_same(&self, memory: &Memory, name: &str) {
        for program in &self.programs {
            let hook = program.hook;
            let flows = |flows: &BTreeMap<FlowName, Flow>| bytes(flows, flow_key, flow_entry);
            let replies = |replies: &BTreeMap<ReplyName, Reply>| bytes(replies, reply_key, reply_entry);
            let of_kernel = |map| timeless::<24, 16>(program, map, 4..8);
            assert_eq!(of_kernel(maps::FLOWS.name), flows(&memory.flows), "{name}: {hook:?}");
            assert_eq!(of_kernel(maps::PENDING_FLOWS.name), flows(&memory.pending_flows), "{name}: {hook:?}");
            let of_kernel = |map| timeless::<24, 40>(program, map, 20..24);
            assert_eq!(of_kernel(maps::REPLIES.name), replies(&memory.replies), "{name}: {hook:?}");
            assert_eq!(
                of_kernel(maps::PENDING_REPLIES.name),
                replies(&memory.pending_replies),
                "{name}: {hook:?}"
            );
            let ports = |ports: &(u16, u16)| {
                let ports = FragmentPorts { source: Port::new(ports.0), destination: Port::new(ports.1) };
                bytes_of(&ports).to_vec()
            };
            let fragments = bytes(&memory.fragments, fragment_key, ports);
            assert_eq!(timeless::<40, 4>(program, maps::FRAGMENTS.name, 0..0), fragments, "{name}: {hook:?}");
            let host = |entry: &(u32, u64)| bytes_of(&AffinityEntry { host: entry.0, used: 0 }).to_vec();
            let affinity = bytes(&memory.affinity, |(client, service)| affinity_key(*client, *service), host);
            assert_eq!(timeless::<24, 8>(program, maps::AFFINITY.name, 4..8), affinity, "{name}: {hook:?}");
        }
    }
}

/// Removes what packets have left, and the frontends of another world.
fn forget(program: &mut Program) {
    for (key, _) in program.entries::<24, 40>(maps::FRONTENDS.name) {
        program.remove::<_, 40>(maps::FRONTENDS.name, key);
    }
    for (key, _) in program.entries::<8, 4>(maps::MEMBERS.name) {
        program.remove::<_, 4>(maps::MEMBERS.name, key);
    }
    for map in [maps::FLOWS.name, maps::PENDING_FLOWS.name] {
        for (key, _) in program.entries::<24, 16>(map) {
            program.remove::<_, 16>(map, key);
        }
    }
    for map in [maps::REPLIES.name, maps::PENDING_REPLIES.name] {
        for (key, _) in program.entries::<24, 40>(map) {
            program.remove::<_, 40>(map, key);
        }
    }
    for (key, _) in program.entries::<40, 4>(maps::FRAGMENTS.name) {
        program.remove::<_, 4>(maps::FRAGMENTS.name, key);
    }
    for (key, _) in program.entries::<24, 8>(maps::AFFINITY.name) {
        program.remove::<_, 8>(maps::AFFINITY.name, key);
    }
}

/// What happened so many seconds ago happened then.
fn tick_of(age_secs: u64) -> Tick {
    tick(monotonic_nanoseconds().saturating_sub(age_secs * 1_000_000_000))
}

pub(super) fn uptime_secs() -> u64 {
    monotonic_nanoseconds() / 1_000_000_000
}

type Bytes = BTreeMap<Vec<u8>, Vec<u8>>;

fn bytes<K, V>(map: &BTreeMap<K, V>, key: impl Fn(&K) -> Vec<u8>, value: impl Fn(&V) -> Vec<u8>) -> Bytes {
    map.iter().map(|(k, v)| (key(k), value(v))).collect()
}

fn timeless<const K: usize, const V: usize>(
    program: &Program,
    map: &str,
    time: std::ops::Range<usize>,
) -> Bytes {
    let without = |(key, mut value): ([u8; K], [u8; V])| {
        value[time.clone()].fill(0);
        (key.to_vec(), value.to_vec())
    };
    program.entries::<K, V>(map).into_iter().map(without).collect()
}

fn id((index, generation): Id) -> BackendId {
    BackendId::new(index, generation)
}

fn flow_key((client, port, frontend): &FlowName) -> Vec<u8> {
    let key = ForwardKey {
        client: Address::from(*client),
        frontend: *frontend,
        client_port: Port::new(*port),
        padding: 0,
    };
    bytes_of(&key).to_vec()
}

fn flow_entry(flow: &Flow) -> Vec<u8> {
    let entry = ForwardEntry {
        backend: id(flow.backend),
        snat_port: Port::new(flow.snat_port),
        seen: flow.seen,
        way: way(flow.way.0, Mac::new(flow.way.1)),
        ..ForwardEntry::zeroed()
    };
    bytes_of(&entry).to_vec()
}

fn reply_key((backend, port, snat_port, protocol): &ReplyName) -> Vec<u8> {
    let key = ReplyKey {
        backend: Address::from(*backend),
        backend_port: Port::new(*port),
        snat_port: Port::new(*snat_port),
        protocol: *protocol,
        padding: [0; 3],
    };
    bytes_of(&key).to_vec()
}

fn reply_entry(reply: &Reply) -> Vec<u8> {
    let entry = ReplyEntry {
        client: Address::from(reply.client.0),
        client_port: Port::new(reply.client.1),
        backend: id(reply.backend),
        seen: reply.seen,
        ifindex: reply.way.0,
        mac: Mac::new(reply.way.1),
        ..ReplyEntry::zeroed()
    };
    bytes_of(&entry).to_vec()
}

fn fragment_key((source, destination, id, protocol): &FragmentName) -> Vec<u8> {
    // As on the wire: four bytes, or two of them in the first half.
    let id = if source.is_ipv4() { u32::from(u16::to_be(*id as u16)) } else { id.to_be() };
    let key = FragmentKey {
        source: Address::from(*source),
        destination: Address::from(*destination),
        id,
        protocol: *protocol,
        padding: [0; 3],
    };
    bytes_of(&key).to_vec()
}

fn affinity_key(client: IpAddr, service: u32) -> Vec<u8> {
    bytes_of(&AffinityKey { client: Address::from(client), service, padding: 0 }).to_vec()
}
