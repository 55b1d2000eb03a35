// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Weighted Maglev tables: which backend a flow goes to, without remembering the flow. A table depends only
//! on the names and weights of the backends, so every box and every plane builds the same one, and a change
//! of one backend moves few flows of the others. The table knows nothing of health, or of flows that must
//! stay with their backend.
//!
//! Theory: Eisenbud et al., "Maglev", NSDI 2016, section 3.4. Each backend has its own permutation of the
//! slots, `offset + n * skip` modulo a prime. The backends take turns, and each claims its next free slot.
//! With weights, a backend misses some of its turns: each round adds its weight to its credit, and a turn
//! costs as much as the largest weight (the idea of Katran's V2 table). So shares follow weights, and a
//! changed weight moves few other flows.

use crate::hash::mix;

/// Slots of the largest table. With more than 1,310 backends it has fewer than 100 slots for each, and shares
/// become less even.
pub const MAX_SLOTS: usize = SIZES[SIZES.len() - 1];

/// Sizes of tables, all prime. There are few, because nearly every flow moves when the size changes.
const SIZES: [usize; 3] = [1021, 16_381, 131_071];

/// As in the paper: no share is then off by more than about 1 %.
const SLOTS_PER_BACKEND: usize = 100;

/// The content of a slot without a backend. Only a table without backends has such slots.
pub const NOBODY: u16 = u16::MAX;

/// A backend, while a table is filled.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// The content of its slots.
    id: u16,
    name: u64,
    weight: u32,
    credit: u32,
    position: usize,
    skip: usize,
}

impl Contender {
    /// `id` is the content of its slots. `name` is the address and port of the backend: unlike the id, it is
    /// the same on every box and at any time. A backend with a `weight` of 0 gets no slot.
    pub fn new(id: u16, name: &[u8], weight: u16) -> Self {
        let name = name.iter().fold(name.len() as u64, |hash, byte| mix(hash ^ u64::from(*byte)));
        Self { id, name, weight: u32::from(weight), credit: 0, position: 0, skip: 1 }
    }
}

/// Number of slots of a table for `backends` backends.
pub fn slots_for(backends: usize) -> usize {
    let enough = |size: &&usize| **size >= backends.saturating_mul(SLOTS_PER_BACKEND);
    *SIZES.iter().find(enough).unwrap_or(&MAX_SLOTS)
}

/// The slot of a flow with this hash, in a table of `slots` slots.
#[inline(always)]
pub const fn slot_of(hash: u64, slots: usize) -> usize {
    if slots == 0 { 0 } else { (hash % slots as u64) as usize }
}

/// Fills `slots`, whose number must be a result of [`slots_for`]. The order of `contenders` does not matter;
/// they are sorted.
pub fn fill(slots: &mut [u16], contenders: &mut [Contender]) {
    slots.fill(NOBODY);
    let size = slots.len();
    let heaviest = contenders.iter().map(|contender| contender.weight).max().unwrap_or(0);
    if heaviest == 0 || size < 2 {
        return;
    }
    contenders.sort_unstable_by_key(|contender| (contender.name, contender.id));
    for contender in contenders.iter_mut() {
        contender.position = slot_of(mix(contender.name), size);
        contender.skip = 1 + slot_of(mix(!contender.name), size - 1);
        contender.credit = 0;
    }
    let mut free = size;
    loop {
        for contender in contenders.iter_mut() {
            contender.credit += contender.weight;
            if contender.credit < heaviest {
                continue;
            }
            contender.credit -= heaviest;
            // Skip and size have no common factor, because the size is prime. So every slot is reached.
            while slots[contender.position] != NOBODY {
                contender.position = (contender.position + contender.skip) % size;
            }
            slots[contender.position] = contender.id;
            free -= 1;
            if free == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;

    /// A table of backends, each given by its id, which is its name, too, and its weight.
    fn table(backends: &[(u16, u16)], size: usize) -> Vec<u16> {
        let mut contenders: Vec<Contender> =
            backends.iter().map(|&(id, weight)| Contender::new(id, &id.to_be_bytes(), weight)).collect();
        let mut slots = vec![0; size];
        fill(&mut slots, &mut contenders);
        slots
    }

    fn share(slots: &[u16], id: u16) -> f64 {
        slots.iter().filter(|slot| **slot == id).count() as f64 / slots.len() as f64
    }

    fn moved(before: &[u16], after: &[u16]) -> f64 {
        before.iter().zip(after).filter(|(before, after)| before != after).count() as f64
            / before.len() as f64
    }

    #[test]
    fn sizes_are_prime_and_grow_with_the_backends() {
        for size in SIZES {
            assert!((2..size).take_while(|n| n * n <= size).all(|n| size % n != 0), "{size}");
        }
        assert_eq!(
            [0, 10, 11, 163, 164, 9999].map(slots_for),
            [1021, 1021, 16_381, 16_381, 131_071, 131_071]
        );
    }

    #[test]
    fn equal_backends_have_equal_shares_whatever_their_order() {
        for count in [1, 2, 10, 100, 1000_u16] {
            let mut backends: Vec<(u16, u16)> = (0..count).map(|id| (id, 1)).collect();
            let slots = table(&backends, slots_for(count.into()));
            let ideal = 1.0 / f64::from(count);
            for id in 0..count {
                let off = (share(&slots, id) - ideal).abs() / ideal;
                assert!(off <= 0.02, "{id} of {count} is off by {off}");
            }
            backends.reverse();
            assert_eq!(slots, table(&backends, slots.len()));
        }
    }

    #[test]
    fn shares_follow_weights() {
        let backends = [(1, 1), (2, 2), (3, 5), (4, 0)];
        let slots = table(&backends, 16_381);
        for (id, weight) in backends {
            assert!((share(&slots, id) - f64::from(weight) / 8.0).abs() < 0.001, "{id}");
        }
    }

    #[test]
    fn a_change_moves_little_more_than_it_must() {
        let ten: Vec<(u16, u16)> = (0..10).map(|id| (id, 10)).collect();
        let before = table(&ten, 16_381);
        assert!(moved(&before, &table(&ten[..9], 16_381)) < 0.115, "one of ten removed");
        let mut lighter = ten.clone();
        lighter[3].1 = 5;
        assert!(moved(&before, &table(&lighter, 16_381)) < 0.06, "one of ten at half its weight");
    }

    #[test]
    fn a_table_without_backends_has_only_empty_slots() {
        assert!(table(&[], 1021).iter().all(|slot| *slot == NOBODY));
        assert!(table(&[(1, 0)], 1021).iter().all(|slot| *slot == NOBODY));
    }

    #[test]
    fn the_table_never_changes() {
        let slots = table(&[(1, 1), (2, 1), (3, 2)], 1021);
        let sum = slots.iter().fold(0, |hash, slot| mix(hash ^ u64::from(*slot)));
        assert_eq!(sum, 10_189_206_030_913_804_196);
    }
}
