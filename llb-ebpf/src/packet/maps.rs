// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Every map of this object. Their purpose, names, capacities, and who writes them are in `llb_common::maps`.
//! The name of a static is the name of its map.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use llb_common::address::{Address, Mac};
use llb_common::backend::{BackendEntry, BackendId, FailureMark};
use llb_common::conntrack::{ForwardEntry, ForwardKey, FragmentKey, FragmentPorts, ReplyEntry, ReplyKey};
use llb_common::counters::{LINK_COUNTERS_CAPACITY, LinkCounters, Traffic};
use llb_common::early::Release;
use llb_common::flow_table::Line;
use llb_common::frontend::{AffinityEntry, AffinityKey, Chunk, FrontendEntry, FrontendKey, MemberKey};
use llb_common::maps;
use llb_common::notice::Notice;
use llb_common::settings::{LinkSettings, Settings};
use llb_common::time::Tick;
use llb_common::trace::TraceEvent;

use crate::decision::Scratch;

/// The kernel allocates entries one by one: for maps that are mostly empty and that only the agent writes.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

/// The lines of a flow table. The agent maps them into its memory, too. A map that can be mapped begins at a
/// page, so each of these lines is one line of the CPU's cache.
pub(crate) type TableLines = Array<Line, { maps::FLOWS.capacity }, { BPF_F_MMAPABLE as usize }>;

#[btf_map]
pub(crate) static LINK_COUNTERS: PerCpuArray<LinkCounters, LINK_COUNTERS_CAPACITY> = PerCpuArray::new();
#[btf_map]
pub(crate) static LINK: Array<LinkSettings, { maps::LINK.capacity }> = Array::new();
#[btf_map]
pub(crate) static SETTINGS: Array<Settings, { maps::SETTINGS.capacity }> = Array::new();
#[btf_map]
pub(crate) static LINKS: HashMap<u32, (Mac, u16), { maps::LINKS.capacity }> = HashMap::new();
#[btf_map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, FrontendEntry, { maps::FRONTENDS.capacity }> =
    HashMap::new();
#[btf_map]
pub(crate) static VIPS: HashMap<Address, u32, { maps::VIPS.capacity }, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static MAGLEV: Array<Chunk, { maps::MAGLEV.capacity }> = Array::new();
#[btf_map]
pub(crate) static BACKENDS: Array<BackendEntry, { maps::BACKENDS.capacity }> = Array::new();
#[btf_map]
pub(crate) static TRAFFIC: PerCpuArray<Traffic, { maps::TRAFFIC.capacity }> = PerCpuArray::new();
#[btf_map]
pub(crate) static REASONS: PerCpuArray<u64, { maps::REASONS.capacity }> = PerCpuArray::new();
#[btf_map]
pub(crate) static SOURCE_RANGES: LpmTrie<[u32; 5], u8, { maps::SOURCE_RANGES.capacity }> = LpmTrie::new();
#[btf_map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, AffinityEntry, { maps::AFFINITY.capacity }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static MEMBERS: HashMap<MemberKey, BackendId, { maps::MEMBERS.capacity }, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static FLOWS: TableLines = TableLines::new();
#[btf_map]
pub(crate) static REPLIES: TableLines = TableLines::new();
#[btf_map]
pub(crate) static PENDING_FLOWS: LruHashMap<ForwardKey, ForwardEntry, { maps::PENDING_FLOWS.capacity }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static PENDING_REPLIES: LruHashMap<ReplyKey, ReplyEntry, { maps::PENDING_REPLIES.capacity }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static FAILING: LruHashMap<BackendId, FailureMark, { maps::FAILING.capacity }> = LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, { maps::FRAGMENTS.capacity }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static BUDGET: PerCpuArray<Budget, { maps::BUDGET.capacity }> = PerCpuArray::new();
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, { maps::SCRATCH.capacity }> = PerCpuArray::new();
#[btf_map]
pub(crate) static TRACE: RingBuf<TraceEvent, { maps::TRACE.capacity }> = RingBuf::new();
#[btf_map]
pub(crate) static NOTICES: RingBuf<Notice, { maps::NOTICES.capacity }> = RingBuf::new();
#[btf_map]
pub(crate) static EARLY: RingBuf<Release, { maps::EARLY.capacity }> = RingBuf::new();

/// How many flows one CPU has begun in a tick.
#[repr(C)]
pub(crate) struct Budget {
    pub(crate) tick: Tick,
    pub(crate) used: u32,
}

/// The backend with this id. `None` if it is gone, even if another backend uses its index.
#[inline(always)]
pub(crate) fn backend(id: BackendId) -> Option<&'static BackendEntry> {
    let entry = BACKENDS.get(id.index())?;
    (entry.id == id && id != BackendId(0)).then_some(entry)
}
