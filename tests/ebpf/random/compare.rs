// SPDX-License-Identifier: Apache-2.0
//! Compares what the programs' maps hold with what the model remembers.

use std::collections::BTreeMap;
use std::ops::Range;

use bytemuck::{bytes_of, pod_read_unaligned};
use llb_common::backend::{BackendId, FailureMark};
use llb_common::frontend::AffinityEntry;
use llb_common::maps;

use super::fill::Kernel;
use super::remembered::{
    affinity_key, failure, flow_entry, flow_key, fragment_key, fragment_ports, id, reply_entry, reply_key,
};
use crate::model::flows::{Flow, FlowName, Memory, Reply, ReplyName};
use crate::programs::Program;

impl Kernel {
    /// Checks that the maps hold exactly what the model remembers, apart from times.
    pub(super) fn assert_same(&self, memory: &Memory, name: &str) {
        for program in &self.programs {
            let hook = program.hook;
            let flows = |flows: &BTreeMap<FlowName, Flow>| bytes(flows, flow_key, flow_entry);
            let replies = |replies: &BTreeMap<ReplyName, Reply>| bytes(replies, reply_key, reply_entry);
            let of_kernel = |map| timeless::<24, 24>(program, map, 4..8);
            assert_eq!(of_kernel(maps::FLOWS.name), flows(&memory.flows), "{name}: {hook:?}");
            assert_eq!(of_kernel(maps::PENDING_FLOWS.name), flows(&memory.pending_flows), "{name}: {hook:?}");
            let of_kernel = |map| timeless::<24, 40>(program, map, 20..24);
            assert_eq!(of_kernel(maps::REPLIES.name), replies(&memory.replies), "{name}: {hook:?}");
            assert_eq!(
                of_kernel(maps::PENDING_REPLIES.name),
                replies(&memory.pending_replies),
                "{name}: {hook:?}"
            );
            let fragments = bytes(&memory.fragments, fragment_key, fragment_ports);
            assert_eq!(timeless::<40, 4>(program, maps::FRAGMENTS.name, 0..0), fragments, "{name}: {hook:?}");
            let failing = memory.failing.iter();
            let failing = failing.map(|(backend, (finding, _))| (id(*backend), failure(*finding)));
            let kind = |mark: [u8; 4]| pod_read_unaligned::<FailureMark>(&mark).kind();
            let of_kernel = program.entries::<4, 4>(maps::FAILING.name).into_iter();
            let of_kernel = of_kernel.map(|(key, mark)| (pod_read_unaligned(&key), kind(mark)));
            assert_eq!(BTreeMap::<BackendId, _>::from_iter(of_kernel), failing.collect(), "{name}: {hook:?}");
            let host = |entry: &(u32, u64)| bytes_of(&AffinityEntry { host: entry.0, used: 0 }).to_vec();
            let affinity = bytes(&memory.affinity, |(client, service)| affinity_key(*client, *service), host);
            assert_eq!(timeless::<24, 8>(program, maps::AFFINITY.name, 4..8), affinity, "{name}: {hook:?}");
        }
    }
}

type Bytes = BTreeMap<Vec<u8>, Vec<u8>>;

fn bytes<K, V>(map: &BTreeMap<K, V>, key: impl Fn(&K) -> Vec<u8>, value: impl Fn(&V) -> Vec<u8>) -> Bytes {
    map.iter().map(|(k, v)| (key(k), value(v))).collect()
}

fn timeless<const K: usize, const V: usize>(program: &Program, map: &str, time: Range<usize>) -> Bytes {
    let without = |(key, mut value): ([u8; K], [u8; V])| {
        value[time.clone()].fill(0);
        (key.to_vec(), value.to_vec())
    };
    program.entries::<K, V>(map).into_iter().map(without).collect()
}
