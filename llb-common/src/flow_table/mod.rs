// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The table of flows that are no longer pending. It answers one question, "which flow is this packet's?",
//! for each packet, with a million flows of which none is in the CPU's caches. The kernel's hash map walks a
//! list through three or four lines of memory for that, on as many pages. This table reads one line, or one
//! more behind a tag that mostly is in the caches.
//!
//! ```text
//!   line 0    header: number of buckets, seeds
//!   lines     tags: 8 bytes for each bucket, one for each of its 8 places
//!   lines     places: a line each, key and value, 8 of them for each bucket
//!
//!   key --hash--> bucket, other bucket, tag, own place in the bucket
//!                 the own place: does it have the key? If not:
//!                 tags of the buckets: which places may have it? (1 in 128 has the tag, but another key)
//!                 these places: does one have the key?
//! ```
//!
//! A flow is in one of two buckets, which its hash names (Azar et al., *Balanced Allocations*, 1994; tags as
//! in Swiss tables and MemC3): in the first one if at most 6 of its 8 places were taken, else in the emptier
//! one.
//!
//! Nobody waits for anybody: neither CPUs for each other, nor for the agent, which maps the same memory. A
//! place belongs to the one who changed its tag, by an atomic exchange of the tags of its bucket:
//!
//! ```text
//!   FREE --insert: exchange--> BUSY --value and key written--> tag
//!   tag  --remove: exchange--> BUSY --is it the key? then it is cleared--> FREE, else the tag again
//! ```
//!
//! - A place has a key if the last word of the key is not zero. That word is written last and cleared first,
//!   so a look-up of a flow's own place need not read tags.
//! - If two CPUs insert the same key at once, there are two copies for a moment. Each CPU that sees the other
//!   copy removes the later one, in the order of look-up, so one stays.
//! - A place that was found may be used while its flow is removed and another flow gets the place. What is
//!   then read or written is of that other flow. The same holds for the kernel's own hash maps.
//! - If the agent is killed between the two steps of a removal, one place stays BUSY for as long as the map
//!   lives. A program can't be killed.
//!
//! The algorithm is here, for both sides. How each of them accesses the memory is behind [`Lines`].

mod change;
mod find;
mod layout;
mod memory;
mod tags;
#[cfg(not(target_arch = "bpf"))]
mod words;

#[cfg(test)]
mod tests;

pub use change::{Inserted, insert, remove};
pub use find::{find, find_at_home};
pub use layout::{BUCKET_PLACES, Header, KEY_WORDS, Key, LINE_WORDS, Line, VALUE_BYTES, lines};
pub use memory::Lines;
#[cfg(not(target_arch = "bpf"))]
pub use words::Words;
