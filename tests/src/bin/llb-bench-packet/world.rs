// SPDX-License-Identifier: Apache-2.0
//! The maps of a balancer with many flows of one mode. [`Flow`] says how the flows differ; `feed.rs` builds
//! their packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader, Pod};
use bytemuck::bytes_of;
use llb_common::address::{Address, Mac, WirePort};
use llb_common::backend::{ACTIVE, BackendEntry, BackendId};
use llb_common::conntrack::{
    DATA, ForwardEntry, ForwardKey, ReplyEntry, ReplyKey, SYN, forward_key, next_hop,
};
use llb_common::flow_table::{Words, lines};
use llb_common::frontend::{DSR, FrontendEntry, FrontendKey, TCP};
use llb_common::maps;
use llb_common::programs::{TC_INGRESS_PROGRAM, XDP_PROGRAM};
use llb_common::reason::Reason;
use llb_common::settings::{LinkSettings, Settings};
use llb_tests::FlowLines;

use crate::object_file::read;

/// MACs of the balancer, the client and the backend.
pub(crate) const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub(crate) const BACKEND_PORT: u16 = 30_080;
/// All of them are on this link: packets leave by the link by which they came.
const LINK: u32 = 7;
/// Enough backends that each has fewer flows than there are ports.
const BACKENDS: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Xdp,
    Tc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A mode and a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Dsr,
    NatForward,
    NatReply,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Dsr, Self::NatForward, Self::NatReply];

    /// The port of its frontend. Other modes have other ports.
    pub(crate) fn vip_port(self) -> u16 {
        if self == Self::Dsr { 81 } else { 80 }
    }

    fn backend(self, number: u32) -> BackendId {
        BackendId::new(if self == Self::Dsr { 100 } else { 200 } + number, 1)
    }
}

/// One program with full maps.
pub(crate) struct World {
    ebpf: Ebpf,
    pub(crate) hook: Hook,
    pub(crate) family: Family,
}

impl World {
    /// A world with `flows` flows of one mode, and tables for as many. The tables grow by a hundredth until every
    /// flow finds room.
    pub(crate) fn new(hook: Hook, family: Family, mode: Mode, flows: u32) -> Result<Self> {
        let mut sizes = [lines(flows); 2];
        let tables = loop {
            let tables = sizes.map(|lines| FlowLines::new(lines as usize));
            let (placed, replies) = (tables[0].table(), tables[1].table());
            if (0..flows).map(Flow).all(|flow| flow.enter(family, mode, &placed, &replies)) {
                break tables;
            }
            sizes = sizes.map(|lines| lines + lines / 100);
        };
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(maps::FLOWS.name, sizes[0])
            .map_max_entries(maps::REPLIES.name, sizes[1])
            .load(&read("ebpf/packet.o")?)?;
        load(ebpf.program_mut(program_of(hook)).context("no such program")?)?;
        let mut world = Self { ebpf, hook, family };
        let link = LinkSettings { ifindex: LINK, mac: Mac::new(LB_MAC), ..LinkSettings::default() };
        world.set(maps::LINK.name, 0, raw::<12>(bytes_of(&link)))?;
        let mut settings =
            Settings { snat_first_port: 1024, snat_last_port: u16::MAX, ..Settings::default() };
        settings.snat[0] = world.snat();
        world.set(maps::SETTINGS.name, 0, raw::<96>(bytes_of(&settings)))?;
        world.frontend(mode)?;
        for (name, table) in [maps::FLOWS.name, maps::REPLIES.name].into_iter().zip(tables) {
            table.write(world.ebpf.map_mut(name).context("no map")?)?;
        }
        Ok(world)
    }

    pub(crate) fn program(&self) -> Result<&Program> {
        self.ebpf.program(program_of(self.hook)).context("no such program")
    }

    /// Whether all packets so far were forwarded and no new flow began.
    pub(crate) fn knew_all(&self) -> Result<bool> {
        let reasons: PerCpuArray<&MapData, u64> =
            self.ebpf.map(maps::REASONS.name).context("no map")?.try_into()?;
        for reason in Reason::ALL {
            if reasons.get(&(reason as u32), 0)?.iter().any(|count| *count != 0) {
                return Ok(false);
            }
        }
        let pending: HashMap<&MapData, [u8; 24], [u8; size_of::<ForwardEntry>()]> =
            self.ebpf.map(maps::PENDING_FLOWS.name).context("no map")?.try_into()?;
        Ok(pending.keys().next().is_none())
    }

    pub(crate) fn vip(&self) -> Address {
        vip(self.family)
    }

    pub(crate) fn snat(&self) -> Address {
        address(self.family, [192, 0, 2, 2])
    }

    fn frontend(&mut self, mode: Mode) -> Result<()> {
        let key = FrontendKey::new(self.vip(), WirePort::new(mode.vip_port()), TCP);
        let flags = if mode == Mode::Dsr { DSR } else { 0 };
        let entry = FrontendEntry { id: u32::from(mode.vip_port()), flags, ..FrontendEntry::default() };
        self.insert(maps::FRONTENDS.name, raw::<24>(bytes_of(&key)), raw::<40>(bytes_of(&entry)))?;
        for number in 0..BACKENDS {
            let id = mode.backend(number);
            let entry = BackendEntry {
                id,
                ifindex: LINK,
                address: address(self.family, backend_bytes(number)),
                vip: self.vip(),
                snat: self.snat(),
                host: 1 + number,
                mtu: 1500,
                port: WirePort::new(BACKEND_PORT),
                vip_port: WirePort::new(mode.vip_port()),
                mac: Mac::new(BACKEND_MAC),
                source_mac: Mac::new(LB_MAC),
                state: ACTIVE,
                protocol: TCP,
            };
            self.set(maps::BACKENDS.name, id.index(), raw::<80>(bytes_of(&entry)))?;
        }
        Ok(())
    }

    fn set<V: Pod>(&mut self, map: &str, index: u32, value: V) -> Result<()> {
        let mut map: Array<&mut MapData, V> = self.ebpf.map_mut(map).context("no map")?.try_into()?;
        Ok(map.set(index, &value, 0)?)
    }

    fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) -> Result<()> {
        let mut map: HashMap<&mut MapData, K, V> = self.ebpf.map_mut(map).context("no map")?.try_into()?;
        Ok(map.insert(&key, &value, 0)?)
    }
}

fn program_of(hook: Hook) -> &'static str {
    if hook == Hook::Xdp { XDP_PROGRAM } else { TC_INGRESS_PROGRAM }
}

/// Loads a program of either hook.
pub(crate) fn load(program: &mut Program) -> Result<()> {
    match program {
        Program::Xdp(program) => Ok(program.load()?),
        Program::SchedClassifier(program) => Ok(program.load()?),
        _ => anyhow::bail!("not a program of packets"),
    }
}

/// Flow number `n`. Each flow has a client of its own. Every [`BACKENDS`]-th one goes to the same backend, from
/// another port. The client's port and the source port are the same number.
#[derive(Clone, Copy)]
pub(crate) struct Flow(u32);

impl Flow {
    /// The flow at a place of an order in which flows that follow each other are not neighbours in memory.
    pub(crate) fn in_turn(turn: u32, flows: u32) -> Self {
        // A prime, so each flow gets its turn.
        const STEP: u64 = 617_363;
        Self((u64::from(turn) * STEP % u64::from(flows)) as u32)
    }

    /// Adds the flow to the tables, and returns whether it found room.
    fn enter(
        self,
        family: Family,
        mode: Mode,
        placed: &Words<'_, ForwardKey, ForwardEntry>,
        replies: &Words<'_, ReplyKey, ReplyEntry>,
    ) -> bool {
        let client = address(family, self.client_bytes());
        let number = self.0 % BACKENDS;
        let seen = SYN | DATA;
        let key = forward_key(client, self.port(), vip(family), WirePort::new(mode.vip_port()), TCP);
        let entry = ForwardEntry {
            backend: mode.backend(number),
            snat_port: if mode == Mode::Dsr { WirePort::default() } else { self.port() },
            seen,
            next_hop: next_hop(LINK, Mac::new(CLIENT_MAC)),
            ..ForwardEntry::default()
        };
        if !placed.insert(&key, &entry) {
            return false;
        }
        if mode == Mode::Dsr {
            return true;
        }
        let key = ReplyKey {
            backend: address(family, self.backend_bytes()),
            backend_port: WirePort::new(BACKEND_PORT),
            snat_port: self.port(),
            protocol: TCP,
            padding: [0; 3],
        };
        let entry = ReplyEntry {
            client,
            backend: Mode::NatReply.backend(number),
            ifindex: LINK,
            mac: Mac::new(CLIENT_MAC),
            client_port: self.port(),
            seen,
            ..ReplyEntry::default()
        };
        replies.insert(&key, &entry)
    }

    /// The last four bytes of its client's address.
    pub(crate) fn client_bytes(self) -> [u8; 4] {
        (10 << 24 | self.0).to_be_bytes()
    }

    /// The last four bytes of its backend's address.
    pub(crate) fn backend_bytes(self) -> [u8; 4] {
        backend_bytes(self.0 % BACKENDS)
    }

    pub(crate) fn port(self) -> WirePort {
        WirePort::new(1024 + (self.0 / BACKENDS) as u16)
    }
}

fn vip(family: Family) -> Address {
    address(family, [192, 0, 2, 1])
}

fn backend_bytes(number: u32) -> [u8; 4] {
    [198, 51, 100, number as u8]
}

/// These bytes as an IPv4 address, or an IPv6 address that ends with them.
pub(crate) fn address(family: Family, bytes: [u8; 4]) -> Address {
    Address::from(match family {
        Family::V4 => IpAddr::from(Ipv4Addr::from(bytes)),
        Family::V6 => {
            let [a, b, c, d] = bytes;
            let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, high, low))
        }
    })
}

/// Bytes as an array of known length, for maps.
pub(crate) fn raw<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut raw = [0; N];
    raw.copy_from_slice(bytes);
    raw
}
