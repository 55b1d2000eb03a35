// SPDX-License-Identifier: Apache-2.0
//! The script of a connection: what both ends do, and which bytes they send. Pure functions of the seed.

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// The longest stream in one direction, in bytes.
const LARGEST: u64 = 64 << 20;
/// Most streams are shorter than this; otherwise a soak would take too long.
const USUAL: u64 = 64 << 10;
/// One of so many streams may have any length up to [`LARGEST`].
const RARE: u32 = 100;

/// What happens on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Bytes from client to backend, after the connection's number.
    pub up: u64,
    /// Bytes from backend to client.
    pub down: u64,
    /// How the connection ends.
    pub ending: Ending,
    /// Which side sends when.
    pub order: Order,
    /// The client pauses in the middle of sending.
    pub stalls: bool,
    /// The client reads a little at a time.
    pub client_reads_slowly: bool,
    /// The backend reads a little at a time.
    pub backend_reads_slowly: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// Each side closes its direction after all its bytes.
    Clean,
    /// The client resets the connection before it has sent all of `up`.
    ClientResets {
        /// Bytes that it sends before.
        after: u64,
    },
    /// The backend resets the connection before it has sent all of `down`.
    BackendResets {
        /// Bytes that it sends before.
        after: u64,
    },
}

/// Which side sends when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Both at the same time.
    Together,
    /// The backend starts to send after the client has closed its direction.
    ClientFirst,
    /// The client starts to send after the backend has closed its direction.
    BackendFirst,
}

impl Script {
    /// The script of connection `number`: the same at both ends.
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
            // With another order, the side that resets could wait forever for the other one.
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

/// A random length; each order of magnitude is as likely as any other.
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

/// The bytes of a stream: one random block over and over. Each connection and direction begins at another place
/// in it. This is cheap to produce and to compare.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    block: Vec<u8>,
}

/// A prime, so that errors at powers of two are not hidden.
const BLOCK: usize = 65_537;

impl Pattern {
    pub(super) fn new(seed: u64) -> Self {
        let mut block = vec![0; BLOCK];
        StdRng::seed_from_u64(seed).fill_bytes(&mut block);
        Self { block }
    }

    /// The bytes of a stream from `offset` on: at least one, at most to the end of the block.
    pub(super) fn from(&self, number: u64, offset: u64) -> &[u8] {
        // Take the remainders first: a sum that wraps around would jump within the block.
        let block = BLOCK as u64;
        let start = (number % block * 7919 + offset % block) % block;
        &self.block[usize::try_from(start).unwrap_or(0)..]
    }
}
