// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The contract of the object `sockmap`: names, layouts and sizes of what the agent and the verdict program
//! share, and the decision of that program, which is pure. The agent decides which sockets are in the maps.
//!
//! | map | kind | key | value | written by |
//! |---|---|---|---|---|
//! | `ACTIVE` | SOCKHASH, with the verdict program | cookie of a socket | that socket | agent |
//! | `TARGETS` | SOCKHASH | cookie of a socket | the socket that gets its bytes | agent |
//! | `STREAMS` | hash | cookie of a socket | [`Stream`] | agent adds and removes, program counts |
//! | `EVENTS` | ring buffer | | [`Event`] | program |
//!
//! There are two SOCKHASH maps, because both sockets of a pair must be targets before either may be a source.
//! Otherwise bytes that the other socket has received already would be lost.

use bytemuck::{Pod, Zeroable};

use crate::maps::Map;

/// The program that decides what becomes of the bytes that a socket of `ACTIVE` receives.
pub const VERDICT_PROGRAM: &str = "llb_verdict";
/// The program that answers a [`Question`]. It is never attached: the agent runs it by a test run.
pub const ASK_PROGRAM: &str = "llb_ask";

/// Default capacity: sockets of all connections, two each. The agent loads the object with the capacity that
/// it needs.
const SOCKETS: usize = 1024;

/// See the table above.
pub const ACTIVE: Map = Map { name: "ACTIVE", capacity: SOCKETS };
/// See the table above.
pub const TARGETS: Map = Map { name: "TARGETS", capacity: SOCKETS };
/// See the table above.
pub const STREAMS: Map = Map { name: "STREAMS", capacity: SOCKETS };
/// Bytes of the ring buffer. The agent makes it large enough for [`EVENTS_PER_STREAM`] events of each stream.
pub const EVENTS: Map = Map { name: "EVENTS", capacity: 65_536 };

/// The most events that a stream has in its life: one says that it is a bulk transfer, one that it was left
/// to the agent.
pub const EVENTS_PER_STREAM: usize = 2;
/// Bytes that an event takes in the ring buffer, its header included.
pub const EVENT_BYTES: usize = 8 + size_of::<Event>();

/// Names of the constants that hold the offsets of kernel fields: of `struct tcp_sock`, and of a segment. The
/// agent sets them before it loads the object.
pub mod offsets {
    /// `write_seq`: the sequence number behind the last byte that was given to the socket to send.
    pub const WRITE_SEQ: &str = "WRITE_SEQ";
    /// `copied_seq`: the sequence number behind the last byte that was read from the socket.
    pub const COPIED_SEQ: &str = "COPIED_SEQ";
    /// `sk_wmem_queued`: memory of the bytes that are not sent or not acknowledged yet.
    pub const WMEM_QUEUED: &str = "WMEM_QUEUED";
    /// `sk_sndbuf`: the limit of that memory.
    pub const SNDBUF: &str = "SNDBUF";
    /// `cb` of `struct sk_buff`, and in it `seq` of `struct tcp_skb_cb`: the sequence number of a segment's
    /// first byte.
    pub const SEGMENT_SEQ: &str = "SEGMENT_SEQ";
}

/// The most bytes of one direction that may wait between the two sockets, in the buffer of neither.
pub const QUEUE_BYTES: u32 = 256 * 1024;
/// The most segments that may wait there. Segments are limited, too, since one byte may take a page of
/// memory.
pub const QUEUE_SEGMENTS: u32 = 128;
/// Bytes that the send buffer is charged for a segment, besides those of its data.
pub const SEGMENT_OVERHEAD: u32 = 2048;
/// A segment of at least this many bytes belongs to a bulk transfer ...
pub const BULK_BYTES: u32 = 16 * 1024;
/// ... if this many of them come one after the other.
pub const BULK_RUN: u32 = 4;

/// One direction of a pair of sockets: 48 bytes, native byte order. Its key is the cookie of the socket that
/// the bytes come from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Stream {
    /// Bytes given to the other socket.
    pub redirected: u64,
    /// Bytes left to the agent to read.
    pub passed: u64,
    /// `write_seq` of the other socket when `redirected` was 0.
    pub base: u32,
    /// `copied_seq` of the socket that the bytes come from, before the first of them.
    pub first: u32,
    /// 0, or a [`Switch`] as a number: all further bytes are left to the agent, for this reason.
    pub switch: u32,
    /// Bulk segments in a row. It stays at [`BULK_RUN`] once the agent was told.
    bulk_run: u32,
    /// For an upper bound of the segments that may still wait. `before` and `after` count the segments that
    /// came before and after `redirected` was `mark`. Once the other socket has written up to `mark`, none of
    /// `before` waits any more; `after` then becomes `before`.
    mark: u32,
    before: u32,
    after: u32,
    /// Zero.
    padding: u32,
}

const _: () = assert!(size_of::<Stream>() == 48);

/// Why a stream was left to the agent.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// The send buffer of the other socket has no room.
    NoRoom = 1,
    /// More than [`QUEUE_BYTES`] or [`QUEUE_SEGMENTS`] would wait.
    Queue = 2,
    /// The other socket is not in `TARGETS`.
    NoTarget = 3,
    /// Bytes before a segment were lost: the program never saw them. The connection must be reset.
    Torn = 4,
}

/// What the program knows of the socket that gets the bytes. See [`offsets`] for the fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target {
    /// See [`offsets::WRITE_SEQ`].
    pub write_seq: u32,
    /// See [`offsets::WMEM_QUEUED`].
    pub wmem_queued: u32,
    /// See [`offsets::SNDBUF`].
    pub sndbuf: u32,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is given to the other socket.
    Redirect,
    /// It is given to the other socket, and the agent must be told that this is a bulk transfer, which a
    /// splice moves faster.
    RedirectBulk,
    /// It is left to the agent, which knows already.
    Pass,
    /// It is left to the agent, which must be told.
    Switched,
    /// It is dropped, because bytes before it are missing. The agent must be told.
    Torn,
    /// It is dropped, and the agent knows already that nothing more comes from this stream.
    Drop,
}

impl Stream {
    /// A stream whose first byte has the sequence number `first`, while the other socket's `write_seq` is
    /// `base`.
    pub fn new(base: u32, first: u32) -> Self {
        Self { base, first, ..Self::default() }
    }

    /// The sequence number behind all redirected bytes and `read` bytes that the agent read: what
    /// `copied_seq` of the socket must be.
    #[inline(always)]
    pub fn given(&self, read: u64) -> u32 {
        self.first.wrapping_add(self.redirected.wrapping_add(read) as u32)
    }

    /// How many bytes at the beginning of a segment with this sequence number came before. A peer may repeat
    /// bytes that were not acknowledged, together with new ones (RFC 9293, 3.10.7.4). `None`: bytes before
    /// the segment are missing.
    #[inline(always)]
    pub fn repeated(&self, seq: u32) -> Option<u32> {
        let repeated = self.given(self.passed).wrapping_sub(seq);
        (repeated as i32 >= 0).then_some(repeated)
    }

    /// Bytes that were redirected but that the kernel has not given to the other socket yet.
    #[inline(always)]
    pub fn queued(&self, write_seq: u32) -> u32 {
        (self.redirected as u32).wrapping_sub(write_seq.wrapping_sub(self.base))
    }

    /// Decides about `length` more bytes. They go to the other socket only if its send buffer has room for
    /// them, so that nothing waits between the sockets for longer than the kernel's worker needs. Otherwise
    /// these and all further bytes are left to the agent, since bytes must not overtake each other.
    #[inline(always)]
    pub fn decide(&mut self, length: u32, target: Target) -> Decision {
        if self.switch != 0 {
            self.passed = self.passed.wrapping_add(length as u64);
            return Decision::Pass;
        }
        let written = target.write_seq.wrapping_sub(self.base);
        let waiting = self.queued(target.write_seq).wrapping_add(length);
        if (written.wrapping_sub(self.mark) as i32) >= 0 {
            self.before = self.after;
            self.after = 0;
            self.mark = self.redirected as u32;
        }
        let segments = self.before.wrapping_add(self.after).wrapping_add(1);
        if waiting > QUEUE_BYTES || segments > QUEUE_SEGMENTS {
            return self.leave(length, Switch::Queue);
        }
        let needed = waiting.wrapping_add(segments.wrapping_mul(SEGMENT_OVERHEAD));
        if target.wmem_queued.saturating_add(needed) > target.sndbuf {
            return self.leave(length, Switch::NoRoom);
        }
        self.after = self.after.wrapping_add(1);
        self.redirected = self.redirected.wrapping_add(length as u64);
        if self.bulk_run == BULK_RUN {
            return Decision::Redirect;
        }
        self.bulk_run = if length < BULK_BYTES { 0 } else { self.bulk_run.wrapping_add(1) };
        if self.bulk_run == BULK_RUN { Decision::RedirectBulk } else { Decision::Redirect }
    }

    /// Leaves these and all further bytes to the agent.
    #[inline(always)]
    pub fn leave(&mut self, length: u32, why: Switch) -> Decision {
        self.passed = self.passed.wrapping_add(length as u64);
        if self.switch != 0 {
            return Decision::Pass;
        }
        self.switch = why as u32;
        Decision::Switched
    }

    /// Ends the stream, because bytes before this segment are missing.
    #[inline(always)]
    pub fn tear(&mut self) -> Decision {
        let is_known = self.switch != 0;
        self.switch = Switch::Torn as u32;
        if is_known { Decision::Drop } else { Decision::Torn }
    }
}

/// Tells the agent to look at a stream: 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// Key of the stream.
    pub cookie: u64,
}

/// A frame for [`ASK_PROGRAM`], question and answer in one: 40 bytes, numbers in native byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Question {
    /// The kernel takes the first 14 bytes for an Ethernet header.
    pub header: [u8; 16],
    /// A key of `TARGETS`.
    pub cookie: u64,
    /// 1: the socket was found, and the next two fields are valid.
    pub found: u32,
    /// See [`offsets::WRITE_SEQ`].
    pub write_seq: u32,
    /// See [`offsets::COPIED_SEQ`].
    pub copied_seq: u32,
    /// Zero.
    pub padding: u32,
}

const _: () = assert!(size_of::<Question>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: u32 = 4 << 20;

    fn target(write_seq: u32, wmem_queued: u32) -> Target {
        Target { write_seq, wmem_queued, sndbuf: ROOMY }
    }

    #[test]
    fn bytes_that_have_room_are_redirected_at_any_sequence_number() {
        for base in [0, 1, u32::MAX - 10] {
            let mut stream = Stream::new(base, 0);
            for number in 0..1000u32 {
                let at = target(base.wrapping_add(number * 100), 0);
                assert_eq!(stream.decide(100, at), Decision::Redirect);
            }
            assert_eq!((stream.redirected, stream.passed), (100_000, 0));
            assert_eq!(stream.queued(base.wrapping_add(100_000)), 0);
        }
    }

    #[test]
    fn without_room_all_further_bytes_are_left_to_the_agent() {
        let mut stream = Stream::new(7, 0);
        assert_eq!(stream.decide(100, target(7, 0)), Decision::Redirect);
        assert_eq!(stream.decide(100, target(107, ROOMY - 1000)), Decision::Switched);
        assert_eq!(stream.decide(100, target(107, 0)), Decision::Pass);
        assert_eq!(stream.switch, Switch::NoRoom as u32);
        assert_eq!((stream.redirected, stream.passed), (100, 200));
    }

    #[test]
    fn repeated_and_missing_bytes_are_recognized() {
        let mut stream = Stream::new(0, u32::MAX - 10);
        assert_eq!(stream.repeated(u32::MAX - 10), Some(0));
        stream.decide(100, target(0, 0));
        let next = 89;
        assert_eq!(stream.repeated(next), Some(0));
        assert_eq!(stream.repeated(next - 30), Some(30));
        assert_eq!(stream.repeated(next + 1), None);
        stream.leave(50, Switch::NoRoom);
        assert_eq!(stream.repeated(next + 20), Some(30));
    }

    #[test]
    fn waiting_bytes_and_segments_are_limited() {
        let mut stream = Stream::new(0, 0);
        let mut decided =
            |length| (0..1000).find(|_| stream.decide(length, target(0, 0)) == Decision::Switched);
        assert_eq!(decided(64 * 1024), Some(4));
        assert_eq!(stream.switch, Switch::Queue as u32);
        let mut stream = Stream::new(0, 0);
        let mut decided =
            |length| (0..1000).find(|_| stream.decide(length, target(0, 0)) == Decision::Switched);
        assert_eq!(decided(1), Some(QUEUE_SEGMENTS as usize));
        assert_eq!(stream.switch, Switch::Queue as u32);
    }

    #[test]
    fn a_queue_that_lags_but_moves_is_kept() {
        let mut stream = Stream::new(0, 0);
        for number in 0..10_000u32 {
            let written = number.saturating_sub(50);
            assert_eq!(stream.decide(1, target(written, 0)), Decision::Redirect, "{number}");
        }
    }

    #[test]
    fn a_bulk_transfer_is_reported_once() {
        let mut stream = Stream::new(0, 0);
        let mut written = 0;
        let mut decide = |length: u32| {
            let decision = stream.decide(length, target(written, 0));
            written += length;
            decision
        };
        let decisions: [_; 9] = core::array::from_fn(|_| decide(BULK_BYTES));
        assert_eq!(
            decisions.map(|decision| decision == Decision::RedirectBulk),
            [false, false, false, true, false, false, false, false, false]
        );
    }
}
