//! The packet plane in this kernel, without a link: both programs over one set
//! of maps each, a little world in those maps, and frames as bytes.
//!
//! The world is one frontend for each family and mode, with one backend, so
//! that each row of a table is written once and run four times: two families,
//! two hooks.

use aya::maps::{Array, HashMap, MapData, PerCpuArray, lpm_trie};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, Pod};
use bytemuck::bytes_of;
use llb_common::address::{Address, Mac, Port};
use llb_common::backend::{ACTIVE, BackendEntry, BackendId};
use llb_common::frontend::{FrontendEntry, FrontendKey, SourceRangeKey, Table};
use llb_common::programs::{TC_INGRESS_PROGRAM, XDP_PROGRAM};
use llb_common::reason::Reason;
use llb_common::settings::{LinkSettings, Settings};
use llb_common::{frontend, maps};

use crate::object;

/// Ours, the client's and the backend's.
pub(crate) const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// The link of all of them: what comes in goes out there.
pub(crate) const LINK: u32 = 7;
pub(crate) const NAT_PORT: u16 = 80;
pub(crate) const DSR_PORT: u16 = 81;
pub(crate) const EMPTY_PORT: u16 = 82;
pub(crate) const BACKEND_PORT: u16 = 30_080;

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

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Pass,
    Drop,
    Sent(Vec<u8>),
}

pub(crate) struct Plane {
    ebpf: Ebpf,
    pub(crate) hook: Hook,
    pub(crate) family: Family,
}

impl Plane {
    pub(crate) fn new(hook: Hook, family: Family) -> Self {
        let mut ebpf = Ebpf::load(&object().unwrap()).unwrap();
        match hook {
            Hook::Xdp => {
                let program: &mut Xdp = ebpf.program_mut(XDP_PROGRAM).unwrap().try_into().unwrap();
                program.load().unwrap();
            }
            Hook::Tc => {
                let program = ebpf.program_mut(TC_INGRESS_PROGRAM).unwrap();
                let program: &mut SchedClassifier = program.try_into().unwrap();
                program.load().unwrap();
            }
        }
        let mut plane = Self { ebpf, hook, family };
        plane.fill();
        plane
    }

    /// The world.
    fn fill(&mut self) {
        let link = LinkSettings { ifindex: LINK, mac: Mac::new(LB_MAC), traces: 0 };
        self.set(maps::LINK.name, 0, raw::<12>(bytes_of(&link)));
        self.settings(|_| ());
        for (index, port) in [NAT_PORT, DSR_PORT].into_iter().enumerate() {
            let index = index as u32 + 1;
            self.frontend(port, |_| ());
            self.backend(index, |_| ());
            let chunk = [BackendId::new(index, 1).0; frontend::CHUNK_SLOTS];
            self.set(
                maps::MAGLEV.name,
                index,
                raw::<{ 4 * frontend::CHUNK_SLOTS }>(bytemuck::cast_slice(&chunk)),
            );
        }
        self.frontend(EMPTY_PORT, |entry| entry.table.slots = 0);
    }

    pub(crate) fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings =
            Settings { snat_first_port: 1024, snat_last_port: u16::MAX, ..Settings::default() };
        settings.snat[0] = self.snat();
        settings.flow_budget = 1000;
        change(&mut settings);
        self.set(maps::SETTINGS.name, 0, raw::<96>(bytes_of(&settings)));
    }

    /// TCP and UDP alike: same id of Service, other ids of frontend.
    pub(crate) fn frontend(&mut self, port: u16, change: impl Fn(&mut FrontendEntry)) {
        for protocol in [frontend::TCP, frontend::UDP] {
            let key = FrontendKey::new(self.vip(), Port::new(port), protocol);
            let mut entry = FrontendEntry {
                id: u32::from(port) << 8 | u32::from(protocol),
                service: 1,
                ..FrontendEntry::default()
            };
            entry.flags = if port == DSR_PORT { frontend::DSR } else { 0 };
            entry.table = Table { first_chunk: u32::from(port - NAT_PORT) + 1, slots: 1021 };
            change(&mut entry);
            self.insert(maps::FRONTENDS.name, raw::<24>(bytes_of(&key)), raw::<40>(bytes_of(&entry)));
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
            port: Port::new(BACKEND_PORT),
            vip_port: Port::new(NAT_PORT - 1 + index as u16),
            mac: Mac::new(BACKEND_MAC),
            source_mac: Mac::new(LB_MAC),
            state: ACTIVE,
            protocol: frontend::TCP,
        };
        change(&mut entry);
        self.set(maps::BACKENDS.name, index, raw::<80>(bytes_of(&entry)));
    }

    pub(crate) fn admit(&mut self, client: Address, prefix_length: u8) {
        let key = SourceRangeKey::range(1, client, prefix_length);
        let data: [u32; 5] = bytemuck::pod_read_unaligned(&bytes_of(&key)[4..]);
        let map = self.ebpf.map_mut(maps::SOURCE_RANGES.name).unwrap();
        let mut map: lpm_trie::LpmTrie<&mut MapData, [u32; 5], u8> = map.try_into().unwrap();
        map.insert(&lpm_trie::Key::new(key.prefix_bits, data), &1, 0).unwrap();
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

    /// 192.0.2.`last` or 2001:db8::`last`.
    pub(crate) fn address(&self, last: u8) -> Address {
        Self::address_of(self.family, last)
    }

    pub(crate) fn address_of(family: Family, last: u8) -> Address {
        Address::from(match family {
            Family::V4 => std::net::IpAddr::from([192, 0, 2, last]),
            Family::V6 => std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)]),
        })
    }

    fn set<V: Pod>(&mut self, map: &str, index: u32, value: V) {
        let mut map: Array<&mut MapData, V> = self.ebpf.map_mut(map).unwrap().try_into().unwrap();
        map.set(index, &value, 0).unwrap();
    }

    fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, K, V> = self.ebpf.map_mut(map).unwrap().try_into().unwrap();
        map.insert(&key, &value, 0).unwrap();
    }

    /// How many entries a map has, whose keys have `K` and values `V` bytes.
    pub(crate) fn entries<const K: usize, const V: usize>(&self, map: &str) -> Vec<([u8; K], [u8; V])> {
        let map: HashMap<&MapData, [u8; K], [u8; V]> = self.ebpf.map(map).unwrap().try_into().unwrap();
        map.iter().collect::<Result<_, _>>().unwrap()
    }

    pub(crate) fn reason(&self, reason: Reason) -> u64 {
        let map: PerCpuArray<&MapData, u64> = self.ebpf.map(maps::REASONS.name).unwrap().try_into().unwrap();
        map.get(&(reason as u32), 0).unwrap().iter().sum()
    }

    /// One frame through the program. What is not sent must not be changed.
    pub(crate) fn run(&self, frame: &[u8]) -> Outcome {
        let mut out = vec![0; frame.len() + 256];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let program = match self.hook {
            Hook::Xdp => XDP_PROGRAM,
            Hook::Tc => TC_INGRESS_PROGRAM,
        };
        let result = match self.hook {
            Hook::Xdp => <&Xdp>::try_from(self.ebpf.program(program).unwrap()).unwrap().test_run(options),
            Hook::Tc => {
                <&SchedClassifier>::try_from(self.ebpf.program(program).unwrap()).unwrap().test_run(options)
            }
        }
        .unwrap();
        out.truncate(result.data_size_out as usize);
        // linux/bpf.h and linux/pkt_cls.h: pass, drop, and sent on the same link.
        let [pass, drop, sent] = match self.hook {
            Hook::Xdp => [2, 1, 3],
            Hook::Tc => [u32::MAX, 2, 7],
        };
        if result.return_value == sent {
            return Outcome::Sent(out);
        }
        assert_eq!(out, frame, "{:?}: changed, but not sent", self.hook);
        match result.return_value {
            verdict if verdict == pass => Outcome::Pass,
            verdict if verdict == drop => Outcome::Drop,
            other => panic!("{:?}: verdict {other}", self.hook),
        }
    }
}

fn raw<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}
