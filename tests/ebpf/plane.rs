// SPDX-License-Identifier: Apache-2.0
//! The packet plane in this kernel, without a link: each of the two programs with its own maps, a small world
//! in these maps, and frames as bytes.
//!
//! The world has one frontend for each family and mode, with one backend. So each row of a table is written
//! once and run four times: for two families and two hooks.

use bytemuck::bytes_of;
use llb_common::address::{Address, Mac, WirePort};
use llb_common::backend::{ACTIVE, BackendEntry, BackendId};
use llb_common::frontend::{FrontendEntry, FrontendKey, MaglevTable, MemberKey, SourceRangeKey};
use llb_common::reason::Reason;
use llb_common::settings::{LinkSettings, Settings};
use llb_common::time::{Tick, tick};
use llb_common::{frontend, maps};

pub(crate) use crate::programs::Hook;
use crate::programs::{Program, Returned, monotonic_nanoseconds, raw};

/// MACs of the balancer, the client and the backend.
pub(crate) const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// All of them are on this link: packets leave by the link by which they came.
pub(crate) const LINK: u32 = 7;
pub(crate) const NAT_PORT: u16 = 80;
pub(crate) const DSR_PORT: u16 = 81;
pub(crate) const EMPTY_PORT: u16 = 82;
pub(crate) const BACKEND_PORT: u16 = 30_080;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What the program did with a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Pass,
    Drop,
    Sent(Vec<u8>),
}

pub(crate) struct Plane {
    pub(crate) program: Program,
    pub(crate) hook: Hook,
    pub(crate) family: Family,
    /// See `LinkSettings`. It counts from the next [`Plane::arrive_by`] on.
    pub(crate) returns_by_routes: bool,
}

impl Plane {
    pub(crate) fn new(hook: Hook, family: Family) -> Self {
        Self::with_sizes(hook, family, &[])
    }

    /// A plane in which some maps have other sizes.
    pub(crate) fn with_sizes(hook: Hook, family: Family, sizes: &[(&'static str, u32)]) -> Self {
        let mut plane = Self { program: Program::load(hook, sizes), hook, family, returns_by_routes: false };
        plane.fill();
        plane
    }

    /// Writes the small world into the maps.
    fn fill(&mut self) {
        self.arrive_by(LINK, LB_MAC);
        self.settings(|_| ());
        for (index, port) in [NAT_PORT, DSR_PORT].into_iter().enumerate() {
            let index = index as u32 + 1;
            self.frontend(port, |_| ());
            self.backend(index, |_| ());
            self.chunk(index, &[BackendId::new(index, 1)]);
        }
        self.frontend(EMPTY_PORT, |entry| entry.table.slots = 0);
        let vip = self.vip().bytes();
        self.program.insert(maps::VIPS.name, vip, 1_u32);
    }

    /// From now on frames arrive by this link.
    pub(crate) fn arrive_by(&mut self, ifindex: u32, mac: [u8; 6]) {
        let returns_by_routes = self.returns_by_routes.into();
        let link = LinkSettings { ifindex, mac: Mac::new(mac), traces: 0, returns_by_routes };
        self.program.set(maps::LINK.name, 0, raw::<12>(bytes_of(&link)));
    }

    /// Makes another link known to the program.
    pub(crate) fn know_link(&mut self, ifindex: u32, mac: [u8; 6]) {
        self.program.insert(maps::LINKS.name, ifindex, raw::<8>(&[&mac[..], &[0, 0]].concat()));
    }

    /// Fills one chunk of a Maglev table, in which these backends take turns.
    pub(crate) fn chunk(&mut self, number: u32, ids: &[BackendId]) {
        let slots: [u32; frontend::CHUNK_SLOTS] = std::array::from_fn(|slot| ids[slot % ids.len()].0);
        let bytes = raw::<{ 4 * frontend::CHUNK_SLOTS }>(bytemuck::cast_slice(&slots));
        self.program.set(maps::MAGLEV.name, number, bytes);
    }

    /// Names the backend of a host for the frontends of this port.
    pub(crate) fn member(&mut self, port: u16, host: u32, id: BackendId) {
        for protocol in [frontend::TCP, frontend::UDP] {
            let key = MemberKey { frontend: frontend_id(port, protocol), host };
            self.program.insert(maps::MEMBERS.name, raw::<8>(bytes_of(&key)), id.0);
        }
    }

    pub(crate) fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings =
            Settings { snat_first_port: 1024, snat_last_port: u16::MAX, ..Settings::default() };
        settings.snat[0] = self.snat();
        settings.flow_budget = 1000;
        change(&mut settings);
        self.program.set(maps::SETTINGS.name, 0, raw::<96>(bytes_of(&settings)));
    }

    /// Writes the TCP and the UDP frontend of a port: they share the id of their Service, and have different
    /// frontend ids.
    pub(crate) fn frontend(&mut self, port: u16, change: impl Fn(&mut FrontendEntry)) {
        for protocol in [frontend::TCP, frontend::UDP] {
            let key = FrontendKey::new(self.vip(), WirePort::new(port), protocol);
            let mut entry =
                FrontendEntry { id: frontend_id(port, protocol), service: 1, ..FrontendEntry::default() };
            entry.flags = if port == DSR_PORT { frontend::DSR } else { 0 };
            entry.table = MaglevTable { first_chunk: u32::from(port - NAT_PORT) + 1, slots: 1021 };
            change(&mut entry);
            self.program.insert(maps::FRONTENDS.name, raw::<24>(bytes_of(&key)), raw::<40>(bytes_of(&entry)));
        }
    }

    pub(crate) fn backend(&mut self, index: u32, change: impl FnOnce(&mut BackendEntry)) {
        let mut entry = BackendEntry {
            id: BackendId::new(index, 1),
            ifindex: LINK,
            address: self.backend_address(),
            vip: self.vip(),
            snat: self.snat(),
            host: 1,
            mtu: 1500,
            port: WirePort::new(BACKEND_PORT),
            vip_port: WirePort::new(NAT_PORT + (index as u16 - 1) % 2),
            mac: Mac::new(BACKEND_MAC),
            source_mac: Mac::new(LB_MAC),
            state: ACTIVE,
            protocol: frontend::TCP,
        };
        change(&mut entry);
        self.program.set(maps::BACKENDS.name, index, raw::<80>(bytes_of(&entry)));
    }

    pub(crate) fn admit(&mut self, client: Address, prefix_length: u8, admits: bool) {
        let key = SourceRangeKey::range(1, client, prefix_length);
        self.program.admit(key, admits);
    }

    pub(crate) fn vip(&self) -> Address {
        self.address(1)
    }

    pub(crate) fn snat(&self) -> Address {
        self.address(2)
    }

    pub(crate) fn backend_address(&self) -> Address {
        self.address(3)
    }

    pub(crate) fn client(&self) -> Address {
        self.address(10)
    }

    /// 192.0.2.`last` or 2001:db8::`last`, by the family.
    pub(crate) fn address(&self, last: u8) -> Address {
        Self::address_of(self.family, last)
    }

    pub(crate) fn address_of(family: Family, last: u8) -> Address {
        Address::from(match family {
            Family::V4 => std::net::IpAddr::from([192, 0, 2, last]),
            Family::V6 => std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)]),
        })
    }

    /// Runs the program with one frame. A frame that is not sent must not be changed.
    pub(crate) fn run(&self, frame: &[u8]) -> Outcome {
        self.run_with(frame, None)
    }

    /// As [`Plane::run`], with a context besides the frame.
    pub(crate) fn run_with(&self, frame: &[u8], context: Option<&[u8]>) -> Outcome {
        let (returned, out) = self.program.run(frame, context).expect("the kernel takes the frame");
        if matches!(returned, Returned::Sent | Returned::SentElsewhere) {
            return Outcome::Sent(out);
        }
        assert_eq!(out, frame, "{:?}: changed, but not sent", self.hook);
        if returned == Returned::Pass { Outcome::Pass } else { Outcome::Drop }
    }

    /// As [`Program::entries`].
    pub(crate) fn entries<const K: usize, const V: usize>(&self, map: &str) -> Vec<([u8; K], [u8; V])> {
        self.program.entries(map)
    }

    pub(crate) fn reason(&self, reason: Reason) -> u64 {
        self.program.reason(reason)
    }
}

fn frontend_id(port: u16, protocol: u8) -> u32 {
    u32::from(port) << 8 | u32::from(protocol)
}

/// The present time on the programs' clock.
pub(crate) fn now() -> Tick {
    tick(monotonic_nanoseconds())
}
