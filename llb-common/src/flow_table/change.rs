// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Inserts and removes keys.

use super::find::{Home, MAX_ALIKE, Position, find_at, is_same, place};
use super::layout::Key;
use super::memory::Lines;
use super::tags::{BUSY, FREE, TAKEN, at, first_of, matches};

/// With this many free places, the first bucket takes a flow without a look at the other one.
const ENOUGH_FREE: u32 = 2;
/// How often a removal is tried. Each time that it fails, another change of the bucket has succeeded.
const MAX_TRIES: u32 = 4;

/// What became of a key that was to be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[repr(u32)]
pub enum Inserted {
    /// It is not there: both of its buckets are full.
    Full = 0,
    /// It is there. If it was there before, it keeps its old value.
    Placed = 1,
    /// It is not there: another change of the bucket came in between. The caller may try again.
    Again = 2,
}

/// Inserts a key with a value.
#[inline(always)]
pub fn insert<L: Lines>(lines: &L, key: &Key, value: &L::Value) -> Inserted {
    let home = Home::of(lines, key);
    if find_at(lines, key, &home, None).is_some() {
        return Inserted::Placed;
    }
    let Some((bucket, tags)) = emptier(lines, &home) else { return Inserted::Full };
    let left = matches(tags, FREE);
    let is_at_home = bucket == home.buckets[0] && left & at(home.index, TAKEN) != 0;
    let index = if is_at_home { home.index } else { first_of(left) };
    let Some(place) = place(lines, &home.header, bucket, index) else { return Inserted::Full };
    if !lines.exchange_tags(bucket, tags, tags | at(index, BUSY)) {
        return Inserted::Again;
    }
    lines.write(place, key, value);
    lines.flip_tags(bucket, at(index, BUSY ^ home.tag));
    let own = ((bucket, index), place);
    if matches(lines.tags(bucket), home.tag).count_ones() > MAX_ALIKE {
        // Another key with the same tag was inserted at the same time. A look-up would not compare the last
        // of them.
        free(lines, key, &home, own);
        return Inserted::Again;
    }
    if let Some(other) = find_at(lines, key, &home, Some(own.0)) {
        // Of two copies the later one, in the order of look-up, is removed, so one always stays.
        let order = |(bucket, index): Position| (bucket != home.buckets[0], index);
        free(lines, key, &home, if order(own.0) < order(other.0) { other } else { own });
    }
    Inserted::Placed
}

/// The bucket that a new key goes to, and its tags. `None`: both are full.
#[inline(always)]
fn emptier(lines: &impl Lines, home: &Home) -> Option<(u32, u64)> {
    if home.header.buckets == 0 {
        return None;
    }
    let [first, second] = home.buckets;
    let of = |bucket| {
        let tags = lines.tags(bucket);
        let is_full_of_alike = matches(tags, home.tag).count_ones() >= MAX_ALIKE;
        (tags, if is_full_of_alike { 0 } else { matches(tags, FREE).count_ones() })
    };
    let (tags, free) = of(first);
    if free < ENOUGH_FREE {
        let (other_tags, other_free) = of(second);
        if other_free > free {
            return Some((second, other_tags));
        }
    }
    (free != 0).then_some((first, tags))
}

/// Removes a key. `false`: it was not there, or other changes of its bucket came in between each time.
#[inline(always)]
pub fn remove<L: Lines>(lines: &L, key: &Key) -> bool {
    let home = Home::of(lines, key);
    find_at(lines, key, &home, None).is_some_and(|found| free(lines, key, &home, found))
}

/// Frees a place that has this key. `false`: it does not have it, or other changes of the bucket came in
/// between each time.
#[inline(always)]
fn free<L: Lines>(lines: &L, key: &Key, home: &Home, ((bucket, index), place): (Position, L::Place)) -> bool {
    for _ in 0..MAX_TRIES {
        let tags = lines.tags(bucket);
        if tags & at(index, 0xff) != at(index, home.tag) {
            return false;
        }
        if lines.exchange_tags(bucket, tags, tags ^ at(index, home.tag ^ BUSY)) {
            // The key may have been removed meanwhile, and another one with the same tag inserted.
            let is_its_place = is_same(&lines.key(place), key);
            if is_its_place {
                lines.clear(place);
            }
            lines.flip_tags(bucket, at(index, BUSY ^ if is_its_place { FREE } else { home.tag }));
            return is_its_place;
        }
    }
    false
}
