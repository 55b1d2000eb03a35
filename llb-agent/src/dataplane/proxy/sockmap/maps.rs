// SPDX-License-Identifier: Apache-2.0
//! The loaded eBPF object: its maps, and the program that is run to ask about a
//! socket. Each method is one or two system calls; what they are for is in
//! `pair.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, Map, MapData, SockHash};
use aya::programs::{SchedClassifier, SkSkb, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use llb_common::sockmap::{
    ACTIVE, ASK_PROGRAM, EVENT_BYTES, EVENTS, EVENTS_PER_STREAM, Question, STREAMS, Stream, TARGETS,
    VERDICT_PROGRAM, offsets,
};

use super::btf::{Btf, KERNEL_BTF};
use super::error::SockmapError;

/// The object that `cargo xtask build-ebpf` built, if it ran before the agent was built.
#[cfg(sockmap_object)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("LLB_SOCKMAP_OBJECT")));
#[cfg(not(sockmap_object))]
const OBJECT: Option<&[u8]> = None;

/// A [`Stream`] as bytes. aya takes byte arrays without an unsafe trait of its own.
type StreamBytes = [u8; size_of::<Stream>()];

/// The maps, shared by all threads. The lock is for aya, whose handles can't be
/// shared. The kernel needs none, and no call under the lock waits.
pub(super) struct Maps(Mutex<Handles>);

struct Handles {
    active: SockHash<MapData, u64>,
    targets: SockHash<MapData, u64>,
    streams: HashMap<MapData, u64, StreamBytes>,
    /// Keeps the programs loaded, and the verdict program attached to `active`.
    ebpf: Ebpf,
}

/// The state of a socket that gets bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) write_seq: u32,
    pub(super) copied_seq: u32,
}

impl Maps {
    /// Loads the object for at most `pairs` pairs. Also returns the map of events,
    /// for their reader.
    ///
    /// # Errors
    /// Names what is missing.
    pub(super) fn load(pairs: usize) -> Result<(Self, Map), SockmapError> {
        let object = OBJECT.ok_or(SockmapError::NotBuilt)?;
        let offsets = kernel_offsets()?;
        let sockets = u32::try_from(2 * pairs).unwrap_or(u32::MAX);
        // All events of all streams may wait at one time.
        let events = (2 * pairs * EVENTS_PER_STREAM * EVENT_BYTES).next_power_of_two().max(EVENTS.capacity);
        let mut loader = EbpfLoader::new();
        for (name, offset) in &offsets {
            loader.override_global(name, offset, true);
        }
        for map in [ACTIVE, STREAMS] {
            loader.map_max_entries(map.name, sockets);
        }
        // Twice as many, for the entries of `source::Hold`.
        loader.map_max_entries(TARGETS.name, sockets.saturating_mul(2));
        loader.map_max_entries(EVENTS.name, u32::try_from(events).unwrap_or(u32::MAX));
        let mut ebpf = loader.load(object)?;

        let missing = |name| move || SockmapError::NotInObject { name };
        let mut map = |name| ebpf.take_map(name).ok_or_else(missing(name));
        let active = SockHash::try_from(map(ACTIVE.name)?)?;
        let targets = SockHash::try_from(map(TARGETS.name)?)?;
        let streams = HashMap::try_from(map(STREAMS.name)?)?;
        let events = map(EVENTS.name)?;

        let ask: &mut SchedClassifier = ebpf
            .program_mut(ASK_PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(missing(ASK_PROGRAM))?;
        ask.load()?;
        let verdict: &mut SkSkb = ebpf
            .program_mut(VERDICT_PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(missing(VERDICT_PROGRAM))?;
        verdict.load()?;
        verdict.attach(active.fd())?;
        Ok((Self(Mutex::new(Handles { active, targets, streams, ebpf })), events))
    }

    /// `to` gets what the socket of `cookie` receives, once that socket is active.
    pub(super) fn set_target(&self, cookie: u64, to: &impl AsRawFd) -> Result<(), SockmapError> {
        Ok(self.lock().targets.insert(&cookie, to.as_raw_fd(), 0)?)
    }

    /// From now on the program decides on what `socket` receives. The kernel
    /// refuses a socket that is active already.
    pub(super) fn activate(&self, cookie: u64, socket: &impl AsRawFd) -> Result<(), SockmapError> {
        Ok(self.lock().active.insert(&cookie, socket.as_raw_fd(), 0)?)
    }

    /// Writes the state of a stream.
    pub(super) fn set_stream(&self, cookie: u64, stream: Stream) -> Result<(), SockmapError> {
        let mut bytes: StreamBytes = [0; size_of::<Stream>()];
        bytes.copy_from_slice(bytemuck::bytes_of(&stream));
        Ok(self.lock().streams.insert(&cookie, &bytes, 0)?)
    }

    /// Reads the state of a stream.
    pub(super) fn stream(&self, cookie: u64) -> Option<Stream> {
        let bytes = self.lock().streams.get(&cookie, 0).ok()?;
        Some(bytemuck::pod_read_unaligned(&bytes))
    }

    /// Takes the program off a socket. A closed socket has left the map by itself.
    pub(super) fn deactivate(&self, cookie: u64) {
        let _ = self.lock().active.remove(&cookie);
    }

    /// Removes all entries of a stream.
    pub(super) fn forget(&self, cookie: u64) {
        let mut handles = self.lock();
        let _ = handles.active.remove(&cookie);
        let _ = handles.targets.remove(&cookie);
        let _ = handles.streams.remove(&cookie);
    }

    /// Asks about the socket that gets the bytes of the socket of `cookie`. `None`: it is gone.
    pub(super) fn ask(&self, cookie: u64) -> Option<Answer> {
        let question = Question { cookie, ..Question::default() };
        let mut answer = [0; size_of::<Question>()];
        let options = TestRunOptions {
            data_in: Some(bytemuck::bytes_of(&question)),
            data_out: Some(&mut answer),
            ..TestRunOptions::default()
        };
        let handles = self.lock();
        let program: &SchedClassifier = handles.ebpf.program(ASK_PROGRAM)?.try_into().ok()?;
        program
            .test_run(options)
            .inspect_err(|error| tracing::debug!(%error, "cannot ask the kernel about a socket"))
            .ok()?;
        let Question { found, write_seq, copied_seq, .. } = bytemuck::pod_read_unaligned(&answer);
        (found == 1).then_some(Answer { write_seq, copied_seq })
    }

    /// The number of entries of all maps together.
    pub(super) fn entries(&self) -> usize {
        let handles = self.lock();
        handles.streams.keys().flatten().count()
            + handles.targets.keys().flatten().count()
            + handles.active.keys().flatten().count()
    }

    /// Detaches the program, as another program with enough rights could.
    #[cfg(test)]
    pub(super) fn detach(&self) {
        if let Some(Ok(verdict)) = self.lock().ebpf.program_mut(VERDICT_PROGRAM).map(<&mut SkSkb>::try_from) {
            let _ = verdict.unload();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Handles> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The offsets of the kernel's fields, by the names of the object's constants.
fn kernel_offsets() -> Result<BTreeMap<&'static str, u32>, SockmapError> {
    let bytes = fs::read(KERNEL_BTF).map_err(|source| SockmapError::NoBtf { source })?;
    let btf = Btf::parse(&bytes)
        .ok_or_else(|| SockmapError::NoBtf { source: io::ErrorKind::InvalidData.into() })?;
    let (tcp, sock) = (btf.offsets("tcp_sock"), btf.offsets("sock"));
    // TCP keeps its `tcp_skb_cb` in the `cb` field of a segment's `sk_buff`.
    let segment =
        btf.offsets("sk_buff").get("cb").zip(btf.offsets("tcp_skb_cb").get("seq")).map(|(a, b)| a + b);
    // A tcp_sock begins with a sock, so offsets in sock are also offsets in tcp_sock.
    let wanted = [
        (offsets::WRITE_SEQ, tcp.get("write_seq"), "tcp_sock.write_seq"),
        (offsets::COPIED_SEQ, tcp.get("copied_seq"), "tcp_sock.copied_seq"),
        (offsets::WMEM_QUEUED, sock.get("sk_wmem_queued"), "sock.sk_wmem_queued"),
        (offsets::SNDBUF, sock.get("sk_sndbuf"), "sock.sk_sndbuf"),
        (offsets::SEGMENT_SEQ, segment.as_ref(), "tcp_skb_cb.seq"),
    ];
    wanted
        .into_iter()
        .map(|(name, offset, field)| {
            offset.map(|&offset| (name, offset)).ok_or(SockmapError::NoField { field })
        })
        .collect()
}
