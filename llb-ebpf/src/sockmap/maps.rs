// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The maps of the object `sockmap`, and the constants that the agent sets. `llb_common::sockmap` says what is
//! in them and who writes it. The map of marks is in `register.rs`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{HashMap, RingBuf, SockHash};
use aya_ebpf::macros::btf_map;
use llb_common::sockmap::{self, Event, Join, Stream};

/// The kernel allocates entries one by one, because they come and go with connections.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

pub(crate) type Sockets = SockHash<u64, { sockmap::TARGETS.capacity }>;

#[btf_map]
pub(crate) static ACTIVE: Sockets = SockHash::new();
#[btf_map]
pub(crate) static TARGETS: Sockets = SockHash::new();
#[btf_map]
pub(crate) static STREAMS: HashMap<u64, Stream, { sockmap::STREAMS.capacity }, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static JOINS: HashMap<u64, Join, { sockmap::JOINS.capacity }, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { sockmap::EVENTS.capacity }> = RingBuf::new();

// Offsets that the agent sets before it loads the object, see `llb_common::sockmap::offsets`.
#[unsafe(no_mangle)]
pub(crate) static WRITE_SEQ: u32 = 0;
#[unsafe(no_mangle)]
pub(crate) static COPIED_SEQ: u32 = 0;
#[unsafe(no_mangle)]
pub(crate) static WMEM_QUEUED: u32 = 0;
#[unsafe(no_mangle)]
pub(crate) static SNDBUF: u32 = 0;
#[unsafe(no_mangle)]
pub(crate) static SOCKET: u32 = 0;
#[unsafe(no_mangle)]
pub(crate) static SEGMENT_SEQ: u32 = 0;
