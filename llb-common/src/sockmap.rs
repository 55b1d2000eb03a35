// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The contract of the object `sockmap`: names, shapes and sizes of what the
//! agent and the verdict program share, and the decision of that program,
//! which is pure. How a pair of sockets comes and goes is the agent's affair.
//!
//! | map | kind | key | value | written by |
//! |---|---|---|---|---|
//! | `ACTIVE` | socket hash, with the verdict program | cookie of a socket | that socket | agent |
//! | `TARGETS` | socket hash | cookie of a socket | the socket that gets its bytes | agent |
//! | `STREAMS` | hash | cookie of a socket | [`Stream`] | agent makes and removes, program counts |
//! | `EVENTS` | ring buffer | | [`Event`] | program |
//!
//! Two socket hashes, because both sockets must be there as targets before
//! either may be a source, or what the other has sent already would be lost.

use bytemuck::{Pod, Zeroable};

use crate::maps::Map;

/// Decides on what a socket of `ACTIVE` has received.
pub const VERDICT_PROGRAM: &str = "llb_verdict";
/// Answers a [`Question`]. It is never attached, only run by the agent.
pub const ASK_PROGRAM: &str = "llb_ask";

/// Sockets of the machine, not of a connection: two each. The agent makes the
/// maps as large as it needs.
const SOCKETS: usize = 1024;

/// See the table above.
pub const ACTIVE: Map = Map { name: "ACTIVE", capacity: SOCKETS };
/// See the table above.
pub const TARGETS: Map = Map { name: "TARGETS", capacity: SOCKETS };
/// See the table above.
pub const STREAMS: Map = Map { name: "STREAMS", capacity: SOCKETS };
/// Bytes. A stream has at most [`EVENTS_PER_STREAM`] events in its life.
pub const EVENTS: Map = Map { name: "EVENTS", capacity: 65_536 };

/// The program says once that a stream is bulk, and once that it has switched.
pub const EVENTS_PER_STREAM: usize = 2;
/// An event takes so much of the ring buffer, its header included.
pub const EVENT_BYTES: usize = 8 + size_of::<Event>();

/// Where the kernel has the fields that the programs read, of `struct tcp_sock` and
/// of a segment: constants of the object, which the agent sets before it loads it.
pub mod offsets {
    /// `write_seq`: what was given to the socket to be sent.
    pub const WRITE_SEQ: &str = "WRITE_SEQ";
    /// `copied_seq`: what was taken from the socket.
    pub const COPIED_SEQ: &str = "COPIED_SEQ";
    /// `sk_wmem_queued`: memory of what is not yet acknowledged.
    pub const WMEM_QUEUED: &str = "WMEM_QUEUED";
    /// `sk_sndbuf`: the most that this may be.
    pub const SNDBUF: &str = "SNDBUF";
    /// `cb` of `struct sk_buff`, and in it `seq` of `struct tcp_skb_cb`: the sequence
    /// number of a segment's first byte.
    pub const SEGMENT_SEQ: &str = "SEGMENT_SEQ";
}

/// Bytes between two sockets of one direction, in no socket's buffer.
pub const QUEUE_BYTES: u32 = 256 * 1024;
/// Segments in which they may have come: a byte may come in a page of its own.
pub const QUEUE_SEGMENTS: u32 = 128;
/// What the send buffer is charged for a segment beside its bytes.
pub const SEGMENT_OVERHEAD: u32 = 2048;
/// A segment as large as this is one of a bulk transfer ...
pub const BULK_BYTES: u32 = 16 * 1024;
/// ... if so many come one after the other.
pub const BULK_RUN: u32 = 4;

/// One direction of a pair, by the cookie of the socket that its bytes come from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Stream {
    /// Bytes given to the other socket.
    pub redirected: u64,
    /// Bytes left to be read by the agent.
    pub passed: u64,
    /// `write_seq` of the other socket when `redirected` was 0.
    pub base: u32,
    /// `copied_seq` of the socket that the bytes come from, when there were none yet.
    pub first: u32,
    /// Not 0: all is left to the agent from now on, and why ([`Switch`]).
    pub switch: u32,
    /// Bulk segments in a row; stays where it is once it has been told.
    bulk_run: u32,
    /// How segments are counted that may still wait: `before` are those that
    /// came before `redirected` was `mark`, `after` those that came since.
    mark: u32,
    before: u32,
    after: u32,
    /// Zero.
    padding: u32,
}

/// Why a stream was left to the agent.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// The other socket's send buffer has no room.
    NoRoom = 1,
    /// [`QUEUE_BYTES`] or [`QUEUE_SEGMENTS`] wait.
    Queue = 2,
    /// The other socket is not there.
    NoTarget = 3,
    /// Bytes are missing before a segment: the connection can't go on.
    Torn = 4,
}

/// What the program knows of the socket that gets the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target {
    /// See [`offsets`].
    pub write_seq: u32,
    /// See [`offsets`].
    pub wmem_queued: u32,
    /// See [`offsets`].
    pub sndbuf: u32,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Given to the other socket.
    Redirect,
    /// The same; and the agent is to know that it would do better by splicing.
    RedirectBulk,
    /// Left to the agent, which knows already.
    Pass,
    /// Left to the agent, which must be told.
    Switched,
    /// Passed on to nobody, so that bytes are missing at the source, too; the agent
    /// must be told.
    Torn,
    /// The same; and the agent knows that it gets no more from here.
    Drop,
}

impl Stream {
    /// Begins when the other socket's `write_seq` is `base`, and with the sequence
    /// number `first`.
    pub fn new(base: u32, first: u32) -> Self {
        Self { base, first, ..Self::default() }
    }

    /// The sequence number behind what was redirected and `read` bytes of what was left
    /// to the agent: what the socket calls `copied_seq`.
    #[inline(always)]
    pub fn given(&self, read: u64) -> u32 {
        self.first.wrapping_add(self.redirected.wrapping_add(read) as u32)
    }

    /// Bytes at the beginning of a segment with this sequence number that have come
    /// before: a peer may send again what it has no acknowledgement of together with
    /// what it has not sent yet (RFC 9293, 3.10.7.4). `None`: bytes are missing before it.
    #[inline(always)]
    pub fn repeated(&self, seq: u32) -> Option<u32> {
        let repeated = self.given(self.passed).wrapping_sub(seq);
        (repeated as i32 >= 0).then_some(repeated)
    }

    /// Bytes that were redirected and not yet given to the other socket.
    #[inline(always)]
    pub fn queued(&self, write_seq: u32) -> u32 {
        (self.redirected as u32).wrapping_sub(write_seq.wrapping_sub(self.base))
    }

    /// Decides on `length` more bytes. Only what the other socket's send buffer
    /// has room for goes there, so that nothing ever waits between the sockets
    /// for longer than the kernel's worker needs; else all is left to the agent
    /// for good, since bytes must not overtake each other.
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

    /// Nothing goes on from here, since what came before is missing.
    #[inline(always)]
    pub fn tear(&mut self) -> Decision {
        let is_known = self.switch != 0;
        self.switch = Switch::Torn as u32;
        if is_known { Decision::Drop } else { Decision::Torn }
    }
}

/// The agent is to look at a stream.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// Key of the stream.
    pub cookie: u64,
}

/// A frame for [`ASK_PROGRAM`], question and answer in one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Question {
    /// The kernel takes the first 14 bytes for an Ethernet header.
    pub header: [u8; 16],
    /// A key of `TARGETS`.
    pub cookie: u64,
    /// 1: the socket was found, and what follows is true.
    pub found: u32,
    /// See [`offsets`].
    pub write_seq: u32,
    /// See [`offsets`].
    pub copied_seq: u32,
    /// Zero.
    pub padding: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: u32 = 4 << 20;

    fn target(write_seq: u32, wmem_queued: u32) -> Target {
        Target { write_seq, wmem_queued, sndbuf: ROOMY }
    }

    #[test]
    fn what_has_room_is_redirected_whatever_the_sequence_number() {
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
    fn without_room_all_is_left_to_the_agent_for_good() {
        let mut stream = Stream::new(7, 0);
        assert_eq!(stream.decide(100, target(7, 0)), Decision::Redirect);
        assert_eq!(stream.decide(100, target(107, ROOMY - 1000)), Decision::Switched);
        assert_eq!(stream.decide(100, target(107, 0)), Decision::Pass);
        assert_eq!(stream.switch, Switch::NoRoom as u32);
        assert_eq!((stream.redirected, stream.passed), (100, 200));
    }

    #[test]
    fn repeated_bytes_are_known_and_missing_ones_too() {
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
    fn what_waits_is_bounded_in_bytes_and_in_segments() {
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
    fn a_queue_that_lags_but_moves_is_no_reason() {
        let mut stream = Stream::new(0, 0);
        for number in 0..10_000u32 {
            let written = number.saturating_sub(50);
            assert_eq!(stream.decide(1, target(written, 0)), Decision::Redirect, "{number}");
        }
    }

    #[test]
    fn bulk_is_told_once() {
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
