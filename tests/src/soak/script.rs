// SPDX-License-Identifier: Apache-2.0
//! What both ends of a connection do, and the bytes that they send. Pure.

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// The largest stream in one direction.
const LARGEST: u64 = 64 << 20;
/// Most streams are smaller than this, or a soak would never end.
const USUAL: u64 = 64 << 10;
/// One of so many is as large as it likes.
const RARE: u32 = 100;

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Bytes from client to backend, after the number.
    pub up: u64,
    /// Bytes from backend to client.
    pub down: u64,
    /// How it ends.
    pub ending: Ending,
    /// Who speaks when.
    pub order: Order,
    /// The client rests in the middle of sending.
    pub stalls: bool,
    /// The client reads little at a time.
    pub client_reads_slowly: bool,
    /// The backend reads little at a time.
    pub backend_reads_slowly: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// Each side closes its direction when it has sent all.
    Clean,
    /// The client resets after so many bytes of `up`; fewer than all.
    ClientResets {
        /// Bytes sent before.
        after: u64,
    },
    /// The backend resets after so many bytes of `down`; fewer than all.
    BackendResets {
        /// Bytes sent before.
        after: u64,
    },
}

/// Who speaks when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Both at once.
    Together,
    /// The backend begins after the client's half-close.
    ClientFirst,
    /// The client goes on after the backend's half-close.
    BackendFirst,
}

impl Script {
    /// The same for both ends.
    pub fn of(seed: u64, number: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (up, down) = (size(&mut random), size(&mut random));
        let ending = match random.random_range(0..10) {
            0 if up > 0 => Ending::ClientResets { after: random.random_range(0..up) },
            1 if down > 0 => Ending::BackendResets { after: random.random_range(0..down) },
            _ => Ending::Clean,
        };
        let order = match ending {
            Ending::Clean => {
                [Order::Together, Order::ClientFirst, Order::BackendFirst][random.random_range(0..3)]
            }
            // Otherwise the side that cuts might wait for the other for ever.
            _ => Order::Together,
        };
        Self {
            up,
            down,
            ending,
            order,
            stalls: random.random_range(0..20) == 0,
            client_reads_slowly: random.random_range(0..20) == 0,
            backend_reads_slowly: random.random_range(0..20) == 0,
        }
    }
}

/// Each order of magnitude as likely as any other.
fn size(random: &mut StdRng) -> u64 {
    let limit: u64 = if random.random_range(0..RARE) == 0 { LARGEST } else { USUAL };
    match random.random_range(0..10) {
        0 => 0,
        _ => {
            let bits = random.random_range(0..=limit.ilog2());
            random.random_range(0..=(1u64 << bits)).min(limit)
        }
    }
}

/// The bytes of a stream: one random block over and over, from another place
/// in it for each connection and direction. Cheap to make and to compare.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    block: Vec<u8>,
}

/// Prime, so that no power of two hides an error.
const BLOCK: usize = 65_537;

impl Pattern {
    pub(super) fn new(seed: u64) -> Self {
        let mut block = vec![0; BLOCK];
        StdRng::seed_from_u64(seed).fill_bytes(&mut block);
        Self { block }
    }

    /// The stream's bytes from `offset` on: at least one, at most to the end of the block.
    pub(super) fn from(&self, number: u64, offset: u64) -> &[u8] {
        // First the remainders: a sum that wraps would jump within the block.
        let block = BLOCK as u64;
        let start = (number % block * 7919 + offset % block) % block;
        &self.block[usize::try_from(start).unwrap_or(0)..]
    }
}
