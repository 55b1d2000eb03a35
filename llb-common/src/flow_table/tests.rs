// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! First one thread, compared with a plain map, then many threads at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::vec::Vec;

use super::tags::{first_of, matches};
use super::{BUCKET_PLACES, Header, LINE_WORDS, Words, lines};

type Key = [u64; 3];

/// Arbitrary numbers.
const SEEDS: Key = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x0f1e_2d3c_4b5a_6978];

fn memory(lines: u32) -> Vec<AtomicU64> {
    (0..lines as usize * LINE_WORDS).map(|_| AtomicU64::new(0)).collect()
}

fn table(memory: &[AtomicU64]) -> Words<'_, Key, u64> {
    let table = Words::new(memory);
    table.begin(SEEDS);
    table
}

/// Keys like those of flows: an address, and a port that counts up.
fn key(n: u64) -> Key {
    [0, 0xffff << 32 | n >> 16, n << 48 | 80]
}

fn all(table: &Words<'_, Key, u64>) -> BTreeMap<Key, u64> {
    let mut all = BTreeMap::new();
    table.for_each(|key, value| assert_eq!(all.insert(key, value), None, "{key:x?} twice"));
    all
}

/// xorshift64 (Marsaglia, 2003).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn it_behaves_like_a_map() {
    let memory = memory(lines(500));
    let table = table(&memory);
    let (mut model, mut state) = (BTreeMap::new(), 1);
    for turn in 0..100_000 {
        let (key, is_added) = (key(next(&mut state) % 800), next(&mut state) % 8 < 5);
        if is_added && model.len() < 500 {
            // A new key finds no place if both of its buckets are full.
            if table.insert(&key, &turn) {
                model.entry(key).or_insert(turn);
            } else {
                assert!(!model.contains_key(&key), "{turn}");
            }
        } else {
            assert_eq!(table.remove(&key), model.remove(&key).is_some(), "{turn}");
        }
        let other = self::key(next(&mut state) % 800);
        assert_eq!(table.get(&other), model.get(&other).copied(), "{turn}");
    }
    assert_eq!(all(&table), model);
}

#[test]
fn nearly_all_flows_fit_while_they_come_and_go() {
    const FLOWS: u64 = 60_000;
    let memory = memory(lines(FLOWS as u32));
    let table = table(&memory);
    let refused = (0..10 * FLOWS).filter(|n| {
        if *n >= FLOWS {
            table.remove(&key(*n - FLOWS));
        }
        !table.insert(&key(*n), n)
    });
    // One in 6,000 is refused; the limit leaves room for chance.
    let refused = refused.count();
    assert!(refused < 10 * FLOWS as usize / 3_000, "{refused}");
}

#[test]
fn a_full_table_refuses_new_keys_and_loses_none() {
    for buckets in 1..20 {
        let memory = memory(1 + u32::div_ceil(buckets, 8) + 8 * buckets);
        let table = table(&memory);
        assert_eq!(table.places(), 8 * buckets);
        let taken: BTreeMap<Key, u64> =
            (0..1000).map(|n| (key(n), n)).filter(|(key, n)| table.insert(key, n)).collect();
        assert_eq!(taken.len() as u32, table.places());
        assert_eq!(all(&table), taken);
        assert!(taken.keys().all(|key| table.remove(key)) && all(&table).is_empty());
    }
}

#[test]
fn a_walk_by_parts_finds_what_a_whole_one_finds() {
    let memory = memory(lines(200));
    let table = table(&memory);
    for n in 0..200 {
        table.insert(&key(n), &n);
    }
    let mut found = BTreeMap::new();
    for first in (0..table.buckets()).step_by(7) {
        table.for_each_in(first..first + 7, |key, value| assert_eq!(found.insert(key, value), None));
    }
    assert_eq!(found, all(&table));
    assert!(found.len() > 190, "{}", found.len());
}

#[test]
fn a_table_without_header_is_empty_and_takes_nothing() {
    let memory = memory(100);
    let table = Words::<Key, u64>::new(&memory);
    assert!(!table.insert(&key(1), &1) && table.get(&key(1)).is_none() && !table.remove(&key(1)));
    assert!(memory.iter().all(|word| word.load(Ordering::Relaxed) == 0));
}

#[test]
fn each_line_is_used_once() {
    for flows in (1..2000).chain([1_000_000, 4_194_304]) {
        let header = Header::new(lines(flows), SEEDS);
        let places = u64::from(header.buckets) * u64::from(BUCKET_PLACES);
        assert_eq!(u64::from(header.first_place) + places, u64::from(lines(flows)), "{flows}");
        assert!(places * 4 >= u64::from(flows) * 7);
    }
    assert_eq!(Header::new(0, SEEDS).buckets, 0);
    assert_eq!(Header::new(9, SEEDS).buckets, 0);
    assert_eq!(Header::new(10, SEEDS).buckets, 1);
}

#[test]
fn matches_finds_exactly_the_places_with_the_tag() {
    let mut state = 3;
    for _ in 0..10_000 {
        let tags = next(&mut state) & next(&mut state) & 0x8181_8181_8181_8181;
        for tag in [0, 1, 0x80, 0x81] {
            let mut left = matches(tags, tag);
            for (n, byte) in tags.to_le_bytes().into_iter().enumerate() {
                if u64::from(byte) == tag {
                    assert_eq!(first_of(left), n as u32);
                    left &= left - 1;
                }
            }
            assert_eq!(left, 0, "{tags:x} {tag:x}");
        }
    }
}

/// Each thread has keys of its own, and there are keys that all threads insert and remove.
#[test]
fn concurrent_threads_lose_no_key_and_leave_no_copies() {
    const THREADS: u64 = 4;
    const SHARED: u64 = 20;
    let memory = memory(lines(400));
    let table = table(&memory);
    let kept: Vec<BTreeSet<u64>> = thread::scope(|scope| {
        let work = |thread: u64| {
            let (mut own, mut state) = (BTreeSet::new(), thread + 1);
            for _ in 0..50_000 {
                let n = 1000 * (thread + 1) + next(&mut state) % 60;
                // A key may be hidden for a moment: another thread tries to remove the key that had the place
                // before.
                let found = table.get(&key(n)).or_else(|| table.get(&key(n)));
                assert_eq!(found, own.contains(&n).then_some(n));
                if own.remove(&n) {
                    assert!(table.remove(&key(n)) || table.remove(&key(n)));
                } else if table.insert(&key(n), &n) {
                    own.insert(n);
                }
                let shared = next(&mut state) % SHARED;
                if next(&mut state).is_multiple_of(2) {
                    table.insert(&key(shared), &shared);
                } else {
                    table.remove(&key(shared));
                }
            }
            own
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let kept: BTreeSet<u64> = kept.into_iter().flatten().collect();
    let found: BTreeSet<u64> = all(&table).into_values().filter(|n| *n >= SHARED).collect();
    assert_eq!(found, kept);
    (0..SHARED).for_each(|n| {
        table.remove(&key(n));
        assert_eq!(table.get(&key(n)), None);
    });
}

/// As two CPUs do that have packets of one flow. A CPU that is told that the key is there removes the pending
/// entry, so one copy must stay.
#[test]
fn one_copy_stays_if_threads_insert_a_key_at_once() {
    const THREADS: usize = 4;
    const KEYS: u64 = 3_000;
    let memory = memory(lines(KEYS as u32 * 2));
    let table = table(&memory);
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for n in 0..KEYS {
                    barrier.wait();
                    while !table.insert(&key(n), &n) {}
                    assert_eq!(table.get(&key(n)), Some(n));
                }
            });
        }
    });
    assert_eq!(all(&table).len(), KEYS as usize);
}
