// SPDX-License-Identifier: Apache-2.0
//! One of the two programs in this kernel, without a link, and its maps as raw bytes. `plane.rs` and
//! `random/fill.rs` decide what is in these maps.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf, lpm_trie};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use bytemuck::bytes_of;
use llb_common::frontend::SourceRangeKey;
use llb_common::programs::{TC_INGRESS_PROGRAM, XDP_PROGRAM};
use llb_common::reason::Reason;
use llb_common::{flow_table, maps};
use llb_tests::FlowLines;

use crate::object;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Xdp,
    Tc,
}

/// What a program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    Pass,
    Drop,
    /// By the link by which it came. For TC the return value does not say by which link.
    Sent,
    /// XDP only: by another link.
    SentElsewhere,
}

/// The maps that are flow tables.
const TABLES: [&str; 2] = [maps::FLOWS.name, maps::REPLIES.name];

pub(crate) struct Program {
    ebpf: Ebpf,
    pub(crate) hook: Hook,
}

impl Program {
    /// Loads the program, with other sizes of some maps.
    pub(crate) fn load(hook: Hook, sizes: &[(&'static str, u32)]) -> Self {
        let mut loader = EbpfLoader::new();
        for (name, entries) in sizes {
            loader.map_max_entries(name, *entries);
        }
        let mut ebpf = loader.load(&object().unwrap()).unwrap();
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
        let mut program = Self { ebpf, hook };
        program.clear_tables();
        program
    }

    /// Removes all flows from the flow tables.
    pub(crate) fn clear_tables(&mut self) {
        for table in TABLES {
            let map = self.ebpf.map_mut(table).unwrap();
            FlowLines::empty(map).unwrap().write(map).unwrap();
        }
    }

    /// Replaces the value of a flow in a table; a value has `V` bytes.
    pub(crate) fn replace_placed<const V: usize>(&mut self, table: &str, key: [u8; 24], value: [u8; V]) {
        let map = self.ebpf.map_mut(table).unwrap();
        let lines = FlowLines::read(map).unwrap();
        assert!(lines.replace(key, &value));
        lines.write(map).unwrap();
    }

    /// Writes four bytes of each of these flows' values in a table, at the offset `at`. No flow moves.
    pub(crate) fn patch_placed(&mut self, table: &str, at: usize, numbers: &BTreeMap<Vec<u8>, u32>) {
        const KEY_BYTES: usize = size_of::<flow_table::Key>();
        let map = self.ebpf.map_mut(table).unwrap();
        let mut lines: Array<&mut MapData, [u8; size_of::<flow_table::Line>()]> = map.try_into().unwrap();
        for index in 0..if numbers.is_empty() { 0 } else { lines.len() } {
            let mut line = lines.get(&index, 0).unwrap();
            if let Some(number) = numbers.get(&line[..KEY_BYTES]) {
                line[KEY_BYTES + at..][..4].copy_from_slice(&number.to_ne_bytes());
                lines.set(index, &line, 0).unwrap();
            }
        }
    }

    /// Runs the program with one frame, and returns its verdict and the resulting frame. `None` if the kernel
    /// refuses to run a program with this frame.
    pub(crate) fn run(&self, frame: &[u8], context: Option<&[u8]>) -> Option<(Returned, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context,
            ..TestRunOptions::default()
        };
        let result = match self.hook {
            Hook::Xdp => <&Xdp>::try_from(self.ebpf.program(XDP_PROGRAM).unwrap()).unwrap().test_run(options),
            Hook::Tc => <&SchedClassifier>::try_from(self.ebpf.program(TC_INGRESS_PROGRAM).unwrap())
                .unwrap()
                .test_run(options),
        }
        .ok()?;
        out.truncate(result.data_size_out as usize);
        // From linux/bpf.h and linux/pkt_cls.h.
        let returned = match (self.hook, result.return_value) {
            (Hook::Xdp, 2) | (Hook::Tc, u32::MAX) => Returned::Pass,
            (Hook::Xdp, 1) | (Hook::Tc, 2) => Returned::Drop,
            (Hook::Xdp, 3) | (Hook::Tc, 7) => Returned::Sent,
            (Hook::Xdp, 4) => Returned::SentElsewhere,
            other => panic!("verdict {other:?}"),
        };
        Some((returned, out))
    }

    pub(crate) fn set<V: Pod>(&mut self, map: &str, index: u32, value: V) {
        let mut map: Array<&mut MapData, V> = self.ebpf.map_mut(map).unwrap().try_into().unwrap();
        map.set(index, &value, 0).unwrap();
    }

    pub(crate) fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, K, V> = self.ebpf.map_mut(map).unwrap().try_into().unwrap();
        map.insert(&key, &value, 0).unwrap();
    }

    /// Removes an entry from a map; a value has `V` bytes.
    pub(crate) fn remove<K: Pod, const V: usize>(&mut self, map: &str, key: K) {
        let map = self.ebpf.map_mut(map).unwrap();
        let mut map: HashMap<&mut MapData, K, [u8; V]> = map.try_into().unwrap();
        map.remove(&key).unwrap();
    }

    /// All entries of a map; a key has `K` bytes and a value `V`.
    pub(crate) fn entries<const K: usize, const V: usize>(&self, map: &str) -> Vec<([u8; K], [u8; V])> {
        if TABLES.contains(&map) {
            let lines = FlowLines::read(self.ebpf.map(map).unwrap()).unwrap();
            let mut entries = vec![];
            lines.table::<[u8; 24], [u8; V]>().for_each(|key, value| entries.push((raw(&key), value)));
            return entries;
        }
        let map: HashMap<&MapData, [u8; K], [u8; V]> = self.ebpf.map(map).unwrap().try_into().unwrap();
        map.iter().collect::<Result<_, _>>().unwrap()
    }

    /// Writes whether clients of this range are admitted.
    pub(crate) fn admit(&mut self, key: SourceRangeKey, admits: bool) {
        let data: [u32; 5] = bytemuck::pod_read_unaligned(&bytes_of(&key)[4..]);
        let map = self.ebpf.map_mut(maps::SOURCE_RANGES.name).unwrap();
        let mut map: lpm_trie::LpmTrie<&mut MapData, [u32; 5], u8> = map.try_into().unwrap();
        map.insert(&lpm_trie::Key::new(key.prefix_bits, data), &u8::from(admits), 0).unwrap();
    }

    pub(crate) fn reason(&self, reason: Reason) -> u64 {
        let map: PerCpuArray<&MapData, u64> = self.ebpf.map(maps::REASONS.name).unwrap().try_into().unwrap();
        map.get(&(reason as u32), 0).unwrap().iter().sum()
    }

    /// The packets whose senders the agent must tell, since the last call.
    pub(crate) fn notices(&mut self) -> usize {
        let mut ring = RingBuf::try_from(self.ebpf.map_mut(maps::NOTICES.name).unwrap()).unwrap();
        let mut count = 0;
        while ring.next().is_some() {
            count += 1;
        }
        count
    }

    /// What the programs have given the agent about early fragments, since the last call.
    pub(crate) fn early(&mut self) -> Vec<Vec<u8>> {
        let mut ring = RingBuf::try_from(self.ebpf.map_mut(maps::EARLY.name).unwrap()).unwrap();
        let mut entries = vec![];
        while let Some(entry) = ring.next() {
            entries.push(entry.to_vec());
        }
        entries
    }

    /// Memory of a flow table in bytes, as the kernel reports it.
    pub(crate) fn bytes_of_table(&self, map: &str) -> u64 {
        let Some(Map::Array(map)) = self.ebpf.map(map) else { panic!("{map} is no array") };
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = std::fs::read_to_string(path).unwrap();
        let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        bytes.unwrap().trim().parse().unwrap()
    }

    /// The counts of a backend, in the order of `counters::Traffic`.
    pub(crate) fn traffic(&self, index: u32) -> [u64; 5] {
        let map = self.ebpf.map(maps::TRAFFIC.name).unwrap();
        let map: PerCpuArray<&MapData, [u64; 5]> = map.try_into().unwrap();
        let of_cpus = map.get(&index, 0).unwrap();
        std::array::from_fn(|field| of_cpus.iter().map(|counts| counts[field]).sum())
    }
}

pub(crate) fn raw<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}

/// The clock that the programs read.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
