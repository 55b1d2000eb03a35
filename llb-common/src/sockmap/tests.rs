// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The decisions about segments, case by case.

use super::*;

const ROOMY: u32 = 4 << 20;

fn target(write_seq: u32, wmem_queued: u32) -> Target {
    Target { write_seq, wmem_queued, sndbuf: ROOMY }
}

#[test]
fn bytes_that_have_room_are_redirected_at_any_sequence_number() {
    for base in [0, 1, u32::MAX - 10] {
        let mut stream = Stream::new(1, base, 0);
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
    let mut stream = Stream::new(1, 7, 0);
    assert_eq!(stream.decide(100, target(7, 0)), Decision::Redirect);
    assert_eq!(stream.decide(100, target(107, ROOMY - 1000)), Decision::Switched);
    assert_eq!(stream.decide(100, target(107, 0)), Decision::Pass);
    assert_eq!(stream.switch, Switch::NoRoom as u32);
    assert_eq!((stream.redirected, stream.passed), (100, 200));
}

#[test]
fn repeated_and_missing_bytes_are_recognized() {
    let mut stream = Stream::new(1, 0, u32::MAX - 10);
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
    let mut stream = Stream::new(1, 0, 0);
    let mut decided = |length| (0..1000).find(|_| stream.decide(length, target(0, 0)) == Decision::Switched);
    assert_eq!(decided(64 * 1024), Some(4));
    assert_eq!(stream.switch, Switch::Queue as u32);
    let mut stream = Stream::new(1, 0, 0);
    let mut decided = |length| (0..1000).find(|_| stream.decide(length, target(0, 0)) == Decision::Switched);
    assert_eq!(decided(1), Some(QUEUE_SEGMENTS as usize));
    assert_eq!(stream.switch, Switch::Queue as u32);
}

#[test]
fn a_queue_that_lags_but_moves_is_kept() {
    let mut stream = Stream::new(1, 0, 0);
    for number in 0..10_000u32 {
        let written = number.saturating_sub(50);
        assert_eq!(stream.decide(1, target(written, 0)), Decision::Redirect, "{number}");
    }
}

#[test]
fn a_join_begins_with_what_the_agent_has_written() {
    let mut stream = Stream::registered(1000);
    assert_eq!(stream.pass(300), Decision::Pass);
    for written in [5_000_u32, u32::MAX - 20] {
        let mut join = Join::new(2, 300);
        assert_eq!(stream.decide_joined(100, Some(&mut join), target(written, 0)), Decision::Redirect);
        assert_eq!(stream.queued(written), 100);
        assert_eq!(stream.queued(written.wrapping_add(100)), 0);
    }
    assert_eq!(stream.given(300), 1500);
}

#[test]
fn a_join_waits_for_the_agent_to_read() {
    let mut stream = Stream::registered(0);
    stream.pass(300);
    let mut join = Join::new(2, 299);
    assert_eq!(stream.decide_joined(100, Some(&mut join), target(0, 0)), Decision::Switched);
    assert_eq!(stream.decide_joined(100, Some(&mut join), target(0, 0)), Decision::Pass);
    assert_eq!((stream.redirected, stream.passed, stream.switch), (0, 500, 0));
    let mut join = Join::new(2, 500);
    assert_eq!(stream.decide_joined(100, Some(&mut join), target(0, 0)), Decision::Redirect);
}

#[test]
fn a_bulk_transfer_is_reported_once() {
    let mut stream = Stream::new(1, 0, 0);
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
